"""Logging in with a form, and staying logged in: cookies belong to a named session."""

from crawler import Response, Spider


class Account(Spider):
    """The orders of a customer of the demo shop."""

    name = "account"
    site = "http://127.0.0.1:8000"
    user = "demo"
    password = "demo"
    settings = {"http": {"unsafe_cookies": True}}  # the demo shop is an IP address; real sites need no such thing

    async def start(self):
        yield self.request(f"{self.site}/login", self.log_in, session="customer")

    def log_in(self, response: Response):
        # Hidden fields, such as the token, come along; and the session is that of the page.
        yield response.form("form").fill(username=self.user, password=self.password, callback=self.parse_orders)

    def parse_orders(self, response: Response):
        if not response.css("table.orders"):
            self.logger.error("the login failed: %s", response.css(".error::text").get())
            return
        for row in response.css("table.orders tr"):
            yield {
                "order": row.css("th::text").get(),
                "book": row.css("a::text").get(),
                "url": response.urljoin(row.css("a::attr(href)").get()),
            }
