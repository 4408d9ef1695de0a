"""The status page: what a running crawl answers to probes, Prometheus and people.

| path | answers |
| --- | --- |
| `/healthz` | 200 while the event loop comes round. Nothing else is asked: an outage of the engine ends no worker |
| `/readyz` | 200 while the crawl takes work; 503 and why not while it starts, drains, or has no engine |
| `/metrics` | the counters of this process, for Prometheus (extra `metrics`) |
| `/status` | the crawl's `snapshot()` as JSON |

Whatever may reach the port may ask, so there is nothing to gain: only GET and HEAD, nothing is changed, bodies are not
read, there is no HTML, no file and no name out of the request in an answer. A browser on the same machine could be sent
here by any page; it is recognised by the name it asks for (DNS rebinding) and by `Origin`.
"""

from __future__ import annotations

from crawler.monitor.page import StatusPage

__all__ = ["StatusPage"]
