"""A page in a real browser, with all that it complained about or asked for."""

from typing import Any


class OpenedPage:
    """A page in a context of its own.

    Args:
        browser: Playwright's browser.
        url: Address of the page.
        width: Of its window, in pixels.
        scheme: Color scheme that the user prefers.
        only_errors: Whether other messages on the console are fine.
    """

    def __init__(
        self, browser: Any, url: str, width: int = 1280, scheme: str = "light", only_errors: bool = False
    ) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.only_errors = only_errors
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)

    def _hear(self, message: Any) -> None:
        if message.type == "error" or not self.only_errors:
            self.errors.append(message.text)
