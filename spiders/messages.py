"""Live messages: a WebSocket feed becomes items. `crawler run messages -a feed=wss://… -o messages.jsonl`."""

import asyncio

from aiohttp import WSMsgType

from crawler import FetchError, Spider


class Messages(Spider):
    """Each JSON message of a WebSocket feed, until it says goodbye or somebody stops the crawl."""

    name = "messages"
    feed = "ws://127.0.0.1:8000/feed"
    count: int = 0  # `-a count=100` ends after that many
    pause: float = 1.0  # seconds before the first reconnection; doubled each time, up to a minute

    async def start(self):
        received, pause = 0, self.pause
        while True:
            try:
                async with self.websocket(self.feed, heartbeat=30) as socket:
                    async for message in socket:
                        if message.type is WSMsgType.ERROR:  # too large, or no answer to a heartbeat
                            self.logger.error("the feed broke off: %s", message.data)
                            break
                        yield message.json()
                        received, pause = received + 1, self.pause
                        if received == self.count:
                            return
                if socket.close_code == 1000:  # the feed has nothing more
                    return
            except FetchError as error:
                if not error.retryable:
                    raise
                self.logger.warning("%s, next try in %g s", error, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 60)
