"""A broker in dictionaries: what every real one must do, as short as it can be said. Time is the test's."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field

from crawler.contracts import Counts, Verdict
from crawler.errors import SessionLost
from crawler.frontier.broker import Control, Given, HostLoan, News, Session, Task


@dataclass
class Host:
    waiting: list = field(default_factory=list)
    """(-priority, number, Task), a heap."""
    state: bytes = b""
    quota: int = 3
    shared_places: int = 0
    ready: float = 0.0
    holders: dict = field(default_factory=dict)
    """By session: places."""
    values: dict = field(default_factory=dict)
    named: set = field(default_factory=set)
    wanted_by: str = ""


class ModelCrawl:
    """What all workers share."""

    def __init__(self, clock, *, lease_seconds=60.0, page_limit=0):
        self.clock, self.lease_seconds, self.page_limit = clock, lease_seconds, page_limit
        self.hosts, self.seen, self.reached, self.later = {}, set(), {}, []
        self.sessions, self.own, self.shared, self.versions = {}, {}, {}, itertools.count(1)
        self.changed = {}
        self.begun = {}
        """By task id: (session, host key, Task)."""
        self.numbers = itertools.count(1)
        self.control, self.reason = Control.RUNNING, ""
        self.starter = None
        self.used = self.lent_pages = 0
        self.added = self.duplicates = self.completed = 0
        self.calls = []
        self.epochs = []

    def worker(self, name="w1"):
        return ModelBroker(self, name)

    def host(self, key):
        return self.hosts.setdefault(key, Host())

    def queue(self, key, task, *, front=False):
        number = next(self.numbers)
        heapq.heappush(self.host(key).waiting, (-task.priority, -number if front else number, task))

    def promote(self):
        now = self.clock.now()
        due = [row for row in self.later if row[0] <= now]
        self.later = [row for row in self.later if row[0] > now]
        for _, key, task in due:
            self.queue(key, task)

    def lapse(self, session, *, is_dead):
        for host in self.hosts.values():
            if host.holders.pop(session, None) is not None and is_dead:
                host.ready = max(host.ready, self.clock.now() + 0.5)
        for id_, (owner, key, task) in list(self.begun.items()):
            if owner == session:
                del self.begun[id_]
                self.queue(key, Task(**{**_fields(task), "lapses": task.lapses + is_dead}), front=True)
        if self.starter == session:
            self.starter = None


class ModelBroker:
    def __init__(self, crawl, name):
        self.crawl, self.name, self.session = crawl, name, ""
        self.news_at = 0

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc):
        pass

    def _alive(self):
        crawl = self.crawl
        if crawl.sessions.get(self.session, -1.0) < crawl.clock.now():
            raise SessionLost(f"{self.session} has lapsed")

    async def join(self):
        crawl = self.crawl
        for session in [each for each in crawl.sessions if each.startswith(f"{self.name}.")]:
            del crawl.sessions[session]
            crawl.lapse(session, is_dead=True)
        self.session = f"{self.name}.{next(crawl.numbers)}"
        crawl.sessions[self.session] = crawl.clock.now() + crawl.lease_seconds
        return Session(
            self.session, crawl.clock.now(), crawl.lease_seconds, b"k" * 16,
            dict(crawl.own.get(self.name, {})), dict(crawl.shared), crawl.control,
        )  # fmt: skip

    async def renew(self):
        crawl, now = self.crawl, self.crawl.clock.now()
        self._alive()
        crawl.sessions[self.session] = now + crawl.lease_seconds
        for session in [each for each, until in crawl.sessions.items() if until < now]:
            del crawl.sessions[session]
            crawl.lapse(session, is_dead=True)
        return News(now, crawl.control, crawl.reason, self._shared(), self._counts(), len(crawl.sessions))

    def _shared(self):
        crawl = self.crawl
        news = {key: crawl.shared.get(key) for key, version in crawl.changed.items() if version > self.news_at}
        self.news_at = max(crawl.changed.values(), default=0)
        return news

    def _counts(self):
        crawl = self.crawl
        waiting = sum(len(host.waiting) for host in crawl.hosts.values()) + len(crawl.later)
        active = sum(bool(host.waiting or host.holders) for host in crawl.hosts.values())
        return Counts(
            waiting, len(crawl.begun), active, len(crawl.hosts), crawl.added, crawl.duplicates, crawl.completed
        )

    async def ask(self, ask):
        crawl, now = self.crawl, self.crawl.clock.now()
        self._alive()
        crawl.calls.append(ask)
        for back in ask.returns:
            host = crawl.hosts[back.key]
            del host.holders[self.session]
            host.state, host.quota, host.shared_places = back.state, back.quota, back.shared_places
            host.ready = now + back.wait
            for id_ in reversed(back.unused):
                _, key, task = crawl.begun.pop(id_)
                crawl.queue(key, task, front=True)
        crawl.promote()
        loans = []
        for claim in ask.claims:
            host = crawl.host(claim.key)
            if self.session in host.holders:
                loans.append(self._lend(claim.key, host, host.quota))
            elif host.holders and not host.shared_places:
                host.wanted_by = self.session
            else:
                host.wanted_by = ""
                loans.append(self._lend(claim.key, host, 0))
        if crawl.control is Control.RUNNING:
            loans += self._due(ask.tasks, now)
        dues = [host.ready for host in crawl.hosts.values() if host.waiting and not host.holders]
        dues += [due for due, *_ in crawl.later]
        return Given(now, loans, min(dues, default=None), self._shared())

    def _due(self, tasks, now):
        loans = []
        for key, host in sorted(self.crawl.hosts.items(), key=lambda pair: pair[1].ready):
            if tasks <= 0 or host.ready > now or not host.waiting or host.wanted_by not in ("", self.session):
                continue
            if host.holders and (not host.shared_places or self.session in host.holders):
                continue
            loans.append(self._lend(key, host, min(tasks, host.quota)))
            tasks -= len(loans[-1].tasks)
        return loans

    def _lend(self, key, host, tasks):
        crawl = self.crawl
        places = host.holders.get(self.session, 0)
        if host.shared_places and self.session not in host.holders:
            places = max(1, (host.shared_places - sum(host.holders.values())) // max(1, len(crawl.sessions)))
        host.holders[self.session] = places
        given = []
        while host.waiting and len(given) < tasks:
            task = heapq.heappop(host.waiting)[2]
            task = Task(**{**_fields(task), "id": str(next(crawl.numbers))})
            crawl.begun[task.id] = (self.session, key, task)
            given.append(task)
        values = dict(host.values)
        return HostLoan(key, places, host.state, given, values, sorted(host.named), bool(host.waiting))

    async def commit(self, epoch):
        crawl, now = self.crawl, self.crawl.clock.now()
        self._alive()
        crawl.epochs.append(epoch)
        known = 0
        for name in epoch.named:
            crawl.host(name).named.add(name)
        for entry in epoch.entries:
            if entry.filtered and entry.fingerprint in crawl.seen:
                known += 1
                continue
            crawl.seen.add(entry.fingerprint)
            crawl.added += 1
            task = Task(
                "", entry.record, entry.fingerprint, entry.depth, entry.priority, 0, entry.filtered,
                number=0 if entry.filtered else next(crawl.numbers),
            )  # fmt: skip
            self._wait(entry.host, task, entry.not_before)
        for end in epoch.ends:
            if crawl.begun.get(end.task, ("",))[0] != self.session:
                continue
            _, key, task = crawl.begun.pop(end.task)
            if end.verdict in (Verdict.DONE, Verdict.DEAD):
                crawl.completed += 1
                continue
            is_retry = end.verdict is Verdict.RETRY
            task = Task(**{**_fields(task), "attempt": task.attempt + is_retry, "record": end.record or task.record})
            self._wait(key, task, now + end.wait)
        for key, values in epoch.of_hosts.items():
            crawl.host(key).values.update(values)
        for key, value in epoch.shared.items():
            crawl.shared[key] = value
            crawl.changed[key] = next(crawl.versions)
        crawl.own.setdefault(self.name, {}).update(epoch.own)
        crawl.used += epoch.pages
        crawl.lent_pages -= epoch.pages
        crawl.duplicates += known
        return known

    def _wait(self, key, task, until):
        if until > self.crawl.clock.now():
            self.crawl.later.append((until, key, task))
        else:
            self.crawl.queue(key, task)

    async def reach(self, host, fingerprint, task):
        crawl = self.crawl
        owner = crawl.begun[task][2].fingerprint
        if fingerprint in crawl.seen and crawl.reached.get(fingerprint) != owner:
            return False
        crawl.seen.add(fingerprint)
        crawl.reached[fingerprint] = owner
        return True

    async def claim_start(self):
        crawl = self.crawl
        if crawl.starter is None and "started" not in crawl.shared:
            crawl.starter = self.session
        return crawl.starter == self.session

    async def take_allowance(self, pages):
        crawl = self.crawl
        given = min(pages, crawl.page_limit - crawl.used - crawl.lent_pages)
        crawl.lent_pages += given
        return given

    async def is_done(self):
        counts = self._counts()
        return "started" in self.crawl.shared and not (counts.queued or counts.leased)

    async def finish(self, reason):
        self.crawl.control, self.crawl.reason = Control.FINISHED, reason

    async def leave(self):
        self.crawl.sessions.pop(self.session, None)
        self.crawl.lapse(self.session, is_dead=False)


def _fields(task):
    return {name: getattr(task, name) for name in task.__struct_fields__}
