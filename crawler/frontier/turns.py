"""Whose turn it is: every host with something waiting, its controller, and one heap of times over all of them.

A lease costs a few heap operations however many hosts there are. Superseded heap rows are not searched for: a row
counts only if its time is still the host's `turn`.

Hosts may be treated in groups (`politeness.group_by`): those of a group have queues of their own and one controller.
When one takes the group's turn, the others' times are out of date; each is put right when it comes up, which costs the
size of the group, never more than that. Among equal times whoever had no turn for longest has it: so a group's hosts
take turns, too.

Slow hosts may not hold all requests in flight: see `lanes.py`.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

from crawler.contracts import Waits
from crawler.frontier.lanes import Lanes
from crawler.politeness import Answer, Controller, HostRule, HostState, Pause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from crawler.frontier.store import HostStates

__all__ = ["ALL_PLACES", "Host", "Turns"]

ALL_PLACES: Final = 1 << 30
"""Of a host that is on loan as a whole, however many it has."""


class Host:
    """What waits for one host."""

    __slots__ = ("beyond", "controller", "due", "id", "is_in_line", "name", "served", "taken", "turn", "window")

    def __init__(self, name: str, id: int, controller: Controller) -> None:
        self.name = name
        self.id = id
        self.controller = controller
        self.window: list[bytes] = []
        """Order keys of the entries that come next, a heap."""
        self.beyond: bytes | None = None
        """Keys above this one are in the store alone; None: the window is complete."""
        self.due: float | None = None
        """When the first of those put off comes due."""
        self.taken = 0
        """Of the controller's places."""
        self.served = 0
        """Number of its last turn, among those of all hosts."""
        self.turn: float | None = None
        self.is_in_line = False
        """It had its turn, and waits for a place in the slow lane."""

    @property
    def has_work(self) -> bool:
        return bool(self.window) or self.beyond is not None or self.due is not None


class Turns:
    """`rule` gives the configured treatment of a host or group, `group` the name of a host's group. `by_address`: hosts
    come into theirs by `regroup`. `concurrency` is how many requests there may be at all, None: without limit."""

    def __init__(
        self,
        store: HostStates,
        *,
        rule: Callable[[str], HostRule],
        rng: Random,
        group: Callable[[str], str] | None = None,
        by_address: bool = False,
        concurrency: int | None = None,
    ) -> None:
        self.hosts: dict[str, Host] = {}
        self._controllers: dict[str, Controller] = {}
        self._store = store
        self._rule = rule
        self._rng = rng
        self._group = group
        self._by_address = by_address
        self._heap: list[tuple[float, int, int, Host]] = []
        self._ticks = self._served = 0
        self._resumed = 0.0
        self._crowded: dict[Controller, dict[Host, None]] = {}
        """Hosts that found all places of their group taken, in the order in which they came."""
        self._resting: set[Host] = set()
        """With nothing to do when last looked at."""
        self._touched: set[Controller] = set()
        """Changed since the last save."""
        self._moved: dict[str, str] = {}
        """Hosts that came into another group since then."""
        self._lanes = Lanes(concurrency)
        self._cooling: list[Controller] = []
        """They came back from a loan; each stays until its turn has come."""

    # -- hosts -------------------------------------------------------------------------------------------------------

    def host(self, name: str) -> Host:
        host = self.hosts.get(name)
        if host is None:
            controller = self._controller_of(name if self._group is None else self._group(name))
            controller.members += 1
            host = self.hosts[name] = Host(name, self._store.host_id(name), controller)
        return host

    def _controller_of(self, name: str) -> Controller:
        controller = self._controllers.get(name)
        if controller is None:
            saved = self._store.host_state(name)
            if saved is not None and saved.group and self._by_address:
                return self._controller_of(saved.group)
            controller = self._controllers[name] = Controller(name, self._rule(name))
            if saved is not None and not saved.group:
                controller.restore(saved, self._resumed)
        return controller

    def regroup(self, host: str, group: str) -> bool:
        """The host belongs to this group from now on; its places go with it. Whether that changed anything."""
        state = self.host(host)
        before = state.controller
        if before.name == group:
            return False
        after = self._controller_of(group)
        before.members -= 1
        after.members += 1
        slow = min(before.slow_taken, state.taken)
        before.taken -= state.taken
        before.slow_taken -= slow
        after.taken += state.taken
        after.slow_taken += slow
        after.next_start = max(after.next_start, before.next_start if state.taken else 0.0)
        state.controller = after
        self._touched.add(after)
        self._moved[host] = group
        if not before.members:
            self._lanes.claim(before, 0.0)
            self._controllers.pop(before.name, None)
        self._let_in(before)
        self.schedule(state)
        return True

    def open(self, name: str, now: float) -> Controller:
        """The controller of a host or group that comes from elsewhere, as it was there."""
        self._resumed = now
        return self._controller_of(name)

    def close(self, name: str) -> None:
        """It goes elsewhere, and its hosts, which have no place taken, with it."""
        controller = self._controllers.pop(name, None)
        if controller is not None:
            self._lanes.claim(controller, 0.0)
            self._crowded.pop(controller, None)
            self._touched.discard(controller)

    def forget(self, name: str) -> None:
        """Before `close`: one of the hosts."""
        host = self.hosts.pop(name)
        host.window.clear()
        host.turn = host.beyond = host.due = None
        host.controller.members -= 1
        self._resting.discard(host)

    def clear(self) -> None:
        self.hosts.clear()
        self._controllers.clear()

    def resume(self, now: float) -> None:
        self._resumed = now
        for host in list(self.hosts.values()):
            controller = host.controller
            if controller.delay and controller.next_start <= now:
                controller.next_start = now + controller.spacing(self._rng.random())
            self.schedule(host)

    def bring_forward(self, seconds: float) -> None:
        """Before `resume`: the pauses of hosts end so much earlier."""
        for controller in self._controllers.values():
            if controller.blocked_until:
                controller.blocked_until -= seconds
                self._touched.add(controller)

    # -- the heap ----------------------------------------------------------------------------------------------------

    def due(self, now: float) -> Host | None:
        """A host whose turn it is, taken out of the heap: `schedule` it again."""
        lanes = self._lanes
        while (turn := self.next()) is not None and turn <= now:
            if lanes.waiting and lanes.has_next:
                host = lanes.next()
            else:
                host = heapq.heappop(self._heap)[3]
                host.turn = None
            controller = host.controller
            if controller.taken >= controller.places or controller.turn > now:  # another of its group was faster
                self.schedule(host)
            elif lanes.lets_through(controller):
                return host
            else:
                lanes.wait(host)
        return None

    def next(self) -> float | None:
        """When the next turn is; None: nobody has one."""
        if self._lanes.waiting and self._lanes.has_next:
            return 0.0
        heap = self._heap
        while heap and heap[0][3].turn != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def schedule(self, host: Host) -> None:
        if host.is_in_line:
            return
        controller = host.controller
        if host.window or host.beyond is not None:
            turn = controller.turn
        elif host.due is not None:
            turn = max(host.due, controller.turn)
        else:
            host.turn = None
            self._resting.add(host)
            if controller.demand and controller.members == 1:
                self._lanes.claim(controller, 0.0)
            return
        if controller.taken >= controller.places:
            host.turn = None
            if controller.members > 1:
                self._crowded.setdefault(controller, {})[host] = None
        elif turn != host.turn:
            host.turn = turn
            self._ticks += 1
            heapq.heappush(self._heap, (turn, host.served, self._ticks, host))

    # -- places and turns --------------------------------------------------------------------------------------------

    def take(self, host: Host, start: float) -> None:
        controller = host.controller
        controller.take(start, self._rng.random() if controller.delay else 0.0)
        host.taken += 1
        self.serve(host)
        self._lanes.take(controller)
        if controller.delay:
            self._touched.add(controller)

    def serve(self, host: Host) -> None:
        """It had its turn: among equal times others come first now."""
        self._served += 1
        host.served = self._served

    def enter(self, name: str, now: float) -> float | None:
        """See `Frontier.enter`."""
        host = self.host(name)
        controller = host.controller
        if controller.taken >= controller.places:
            return None
        start = max(now, controller.next_start, controller.blocked_until)
        self.take(host, start)
        self.schedule(host)
        return start

    def again(self, name: str, now: float) -> float:
        """See `Frontier.again`."""
        host = self.host(name)
        controller = host.controller
        start = max(now, controller.next_start, controller.blocked_until)
        controller.take(start, self._rng.random())
        controller.taken -= 1
        self.schedule(host)
        return start

    def sent(self, name: str, at: float) -> None:
        """See `Frontier.sent`."""
        host = self.hosts.get(name)
        if host is not None and host.controller.sent(at):
            self.schedule(host)

    def leave(self, name: str, now: float, *, unused: bool = False) -> None:
        """See `Frontier.leave`."""
        host = self.hosts[name]
        controller = host.controller
        host.taken -= 1
        controller.leave(unused=unused)
        self._lanes.leave(controller)
        if controller in self._crowded:
            self._let_in(controller)
        self.schedule(host)

    def _let_in(self, controller: Controller) -> None:
        for host in self._crowded.pop(controller, ()):
            self.schedule(host)

    # -- on loan -----------------------------------------------------------------------------------------------------

    def lend(self, controller: Controller, places: int = ALL_PLACES) -> None:
        """Somebody else has these places of a host or group from now on. Until `take_back` it is not forgotten."""
        controller.members += 1
        controller.taken += places

    def named(self, name: str) -> Controller:
        """The controller of a host or group of this name."""
        return self._controller_of(name)

    def take_back(
        self, controller: Controller, places: int, state: HostState | None, next_start: float, now: float
    ) -> None:
        """The places come back. `state` is what became of the host meanwhile; None: nobody knows."""
        controller.taken -= places
        if state is not None:
            until, pause = controller.blocked_until, controller.pause
            controller.restore(state, now)
            if controller.taken:  # whoever else has places there may have heard of a longer pause
                controller.block(until, pause)
        controller.next_start = max(next_start, controller.next_start) if controller.taken else next_start
        self._touched.add(controller)
        self._cooling.append(controller)
        self._let_in(controller)

    def _cool(self, now: float) -> None:
        """Let go of hosts that came back, and whose turn is free."""
        cooling, self._cooling = self._cooling, []
        for controller in cooling:
            if controller.next_start > now:
                self._cooling.append(controller)
            else:
                self._leave_group(controller)

    # -- how hosts are treated ---------------------------------------------------------------------------------------

    def observe(self, name: str, answer: Answer, now: float) -> None:
        """See `Frontier.observe`."""
        host = self.host(name)
        controller = host.controller
        delay, blocked_until, failures = controller.delay, controller.blocked_until, controller.failures
        controller.observe(answer, now)
        self._lanes.learn(controller)
        if delay != controller.delay:
            self._touched.add(controller)
        if blocked_until != controller.blocked_until or failures != controller.failures:
            self._touched.add(controller)
            self.schedule(host)

    def change(
        self,
        name: str,
        *,
        delay: float | None = None,
        concurrency: int | None = None,
        blocked_until: float | None = None,
        pause: Pause = Pause.ASKED,
        crawl_delay: float | None = None,
    ) -> None:
        """See `Frontier.host`."""
        host = self.host(name)
        controller = host.controller
        self._touched.add(controller)
        controller.change(delay=delay, places=concurrency)
        if crawl_delay is not None:
            controller.ask_delay(crawl_delay)
        if blocked_until is not None:
            controller.block(blocked_until, pause)
        self.schedule(host)

    def controller(self, name: str) -> Controller:
        """See `Frontier.controller`."""
        return self.host(name).controller

    def waits(self, now: float) -> Waits:
        """See `Frontier.waits`."""
        ready = delayed = full = paused = 0
        for host in self.hosts.values():
            controller = host.controller
            if not host.has_work:
                full += bool(host.taken)  # its last one is under way
            elif controller.taken >= controller.places:
                full += 1
            elif controller.is_paused(now):
                paused += 1
            elif host.turn is not None and host.turn > now:
                delayed += 1
            else:
                ready += 1
        return Waits(ready, delayed, full, paused)

    # -- over epochs -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """What changed, into the store."""
        for controller in self._touched:
            self._store.save_host_state(controller.name, controller.state())
        self._touched.clear()
        for host, group in self._moved.items():
            self._store.save_host_state(host, HostState(None, None, 0.0, 0.0, group=group))
        self._moved.clear()

    def evict_idle(self, now: float, busy: Iterable[Host]) -> None:
        """Forget hosts with nothing to do whose turn is free; their saved state comes back when they do."""
        if self._cooling:
            self._cool(now)
        if not self._resting:
            return
        at_work = set(busy)
        for host in [host for host in self._resting if not (host.taken or host in at_work)]:
            controller = host.controller
            if controller.next_start > now and not host.has_work and controller.members == 1:
                continue
            self._resting.discard(host)
            if host.turn is None and not host.has_work:
                self._forget(host)

    def _forget(self, host: Host) -> None:
        if self.hosts.pop(host.name, None) is not None:
            self._leave_group(host.controller)

    def _leave_group(self, controller: Controller) -> None:
        controller.members -= 1
        if not controller.members:
            self._lanes.claim(controller, 0.0)
            self._controllers.pop(controller.name, None)
