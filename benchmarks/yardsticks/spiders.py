"""Our side of the workloads that no spider of the examples serves."""

from pathlib import Path

from crawler import Response, Spider


class Broad(Spider):
    """Every page of many hosts, from a file of their front pages: `-a starts=FILE`."""

    name = "broad"
    starts = ""

    async def start(self):
        for url in Path(self.starts).read_text(encoding="ascii").split():
            yield self.request(url)

    def parse(self, response: Response):
        links = response.follow_all("a[href]")
        yield {
            "url": response.url,
            "title": response.css("title::text").get(default="").strip(),
            "links": len(links),
        }
        yield links


class Numbered(Spider):
    """Every URL `site` + number below `count`, and nothing done with them."""

    name = "numbered"
    count = "0"

    async def start(self):
        for number in range(int(self.count)):
            yield self.request(f"{self.site}{number}")

    def parse(self, response: Response):
        pass


class Files(Spider):
    """The same, each saved to a file of `folder` that is named by its number."""

    name = "files"
    count, folder = "0", "."

    async def start(self):
        for number in range(int(self.count)):
            yield self.request(f"{self.site}{number}", stream=True)

    async def parse(self, response: Response):
        await response.save(Path(self.folder, response.url.rpartition("/")[2]))
