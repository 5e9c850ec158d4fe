"""The page at /, in headless Chromium by plain WebDriver."""

import contextlib
import re
import shutil
import subprocess
import time

import httpx
import pytest

from lm.serve.page import HTML, policy

CHROME, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ENTER, CONTROL, ESCAPE = "\ue007", "\ue009", "\ue00c"


class Browser:
    """A session of chromedriver."""

    def __init__(self, port, profile):
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        options = {"binary": CHROME, "args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={profile}", "--window-size=1000,900"]}
        for _ in range(100):
            with contextlib.suppress(httpx.TransportError):
                made = self.http.post("/session", json={"capabilities": {"alwaysMatch": {
                    "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}})
                break
            time.sleep(0.1)
        self.http.base_url = f"{self.http.base_url}/session/{made.json()['value']['sessionId']}"

    def ask(self, path, **body):
        """What a command gives."""
        found = self.http.post(path, json=body)
        assert found.status_code == 200, found.text
        return found.json()["value"]

    def open(self, url):
        """Opens a page and waits until it knows the server."""
        self.ask("url", url=url)
        self.until("return document.getElementById('state').className === 'good'")

    def run(self, script, *args):
        """What a script returns."""
        return self.ask("execute/sync", script=script, args=list(args))

    def text(self, name):
        """The text of an element."""
        return self.run("return document.getElementById(arguments[0]).textContent", name)

    def set(self, name, value):
        """Gives a field a value, as a person does."""
        self.run("const e = document.getElementById(arguments[0]); e.value = arguments[1];"
                 "e.dispatchEvent(new Event('change'))", name, value)

    def click(self, name):
        """Clicks an element."""
        found = self.ask("element", using="css selector", value=f"#{name}")
        self.ask(f"element/{next(iter(found.values()))}/click")

    def keys(self, name, text):
        """Types."""
        found = self.ask("element", using="css selector", value=f"#{name}")
        self.ask(f"element/{next(iter(found.values()))}/value", text=text)

    def until(self, script):
        """Waits until a script returns what is true."""
        end = time.monotonic() + 20
        while not self.run(script):
            assert time.monotonic() < end, script
            time.sleep(0.02)

    def complaints(self):
        """What the browser's console was told since it was last asked, but for refused answers."""
        found = self.ask("se/log", type="browser")
        return [x["message"] for x in found if "Failed to load resource" not in x["message"]]

    def devtools(self, command, **params):
        """Calls the browser's developer tools."""
        self.ask("goog/cdp/execute", cmd=command, params=params)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not CHROME or not DRIVER:
        pytest.skip("no chromium and chromedriver here (Debian: chromium, chromium-driver)")
    process = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True)
    try:
        port = next(found[1] for line in process.stdout
                    if (found := re.search(r"started successfully on port (\d+)", line)))
        made = Browser(port, tmp_path_factory.mktemp("profile"))
        yield made
        made.http.delete("")
    finally:
        process.terminate()
        process.wait(20)


def test_a_text_is_continued(browser, server):
    browser.open(server.url)
    assert browser.text("model") == "tiny"
    for name, value in dict(tokens="40", temperature="1", seed="3").items():
        browser.set(name, value)
    browser.keys("prompt", "some text")
    browser.keys("prompt", CONTROL + ENTER)
    browser.until("return /tokens/.test(document.getElementById('facts').textContent)")
    made = server.post(prompt="some text", max_tokens=40, temperature=1, seed=3).json()
    assert browser.text("output") == "some text" + made["choices"][0]["text"]
    assert f"{made['usage']['completion_tokens']} tokens" in browser.text("facts")
    assert "first token after" in browser.text("facts")
    browser.click("go")   # by the button, the same again
    browser.until("return /tokens/.test(document.getElementById('facts').textContent)")
    assert browser.text("output") == "some text" + made["choices"][0]["text"]
    for name in ("load", "speed", "first", "between", "pages"):
        browser.until("return /L/.test(document.querySelector('#' + "
                      f"'{name} path').getAttribute('d'))")
    assert browser.complaints() == []


def test_stopped(browser, server):
    """By the button and by Esc; the server gives it up."""
    server.core.engine.delay = 0.02
    browser.open(server.url)
    browser.set("tokens", "400")
    for stop in (lambda: browser.click("stop"), lambda: browser.keys("prompt", ESCAPE)):
        browser.keys("prompt", "x")
        browser.click("go")
        server.until(lambda: server.core.status().running)
        stop()
        browser.until("return /stopped/.test(document.getElementById('facts').textContent)")
        server.idle()
        assert not browser.run("return document.getElementById('go').disabled")


def test_a_chat(browser, server):
    browser.open(server.url)
    browser.set("kind", "chat")
    browser.set("tokens", "5")
    browser.set("seed", "1")
    turns = []
    for text in ("hello", "again"):
        browser.keys("prompt", text + CONTROL + ENTER)
        browser.until("return /token/.test(document.getElementById('facts').textContent) && "
                      "!document.getElementById('go').disabled")
        turns.append(dict(role="user", content=text))
        made = server.post("/v1/chat/completions", messages=turns, max_tokens=5, seed=1,
                           temperature=0.8)
        turns.append(made.json()["choices"][0]["message"])
        assert browser.text("output").endswith(text + "\n\n" + turns[-1]["content"])
        del turns[-1]["refusal"]
    browser.click("clear")
    assert browser.text("output") == ""
    assert browser.complaints() == []


def test_a_key_is_asked_for(browser, start):
    with start(key="secret") as server:
        browser.ask("url", url=server.url)
        browser.until("return /API key/.test(document.getElementById('state').textContent)")
        assert not browser.run("return document.getElementById('keyed').hidden")
        asked = server.responses("401")
        time.sleep(1.3)   # it polls each second, but not with what was refused
        assert server.responses("401") == asked
        browser.set("tokens", "5")
        browser.set("key", "wrong")
        browser.click("go")
        browser.until("return /API key/.test(document.getElementById('output').textContent)")
        browser.set("key", "secret")
        browser.until("return document.getElementById('state').className === 'good'")
        assert browser.text("model") == "tiny"
        browser.click("go")
        browser.until("return /token/.test(document.getElementById('facts').textContent) && "
                      "!document.getElementById('go').disabled")
        assert not browser.run("return document.getElementById('keyed').hidden")


def test_an_answer_that_breaks_off(browser, server, monkeypatch):
    """What ends without its last event is not all of it."""
    monkeypatch.setattr("lm.serve.respond._Stream._last", lambda self: b": nothing\n\n")
    browser.open(server.url)
    browser.set("tokens", "5")
    browser.keys("prompt", "x")
    browser.click("go")
    browser.until("return /connection was lost/.test("
                  "document.getElementById('output').textContent)")
    assert browser.text("facts") == ""


def test_at_night_and_on_a_phone(browser, server):
    browser.open(server.url)
    colour = "return getComputedStyle(document.body).backgroundColor"
    seen = []
    for scheme in ("light", "dark"):
        browser.devtools("Emulation.setEmulatedMedia", features=[
            dict(name="prefers-color-scheme", value=scheme)])
        seen.append(browser.run(colour))
    assert seen == ["rgb(255, 255, 255)", "rgb(22, 24, 26)"]
    for width in (320, 390):
        browser.devtools("Emulation.setDeviceMetricsOverride", width=width, height=700,
                         deviceScaleFactor=2, mobile=True)
        browser.run("document.getElementById('output').textContent = 'word'.repeat(400)")
        assert browser.run("return document.documentElement.scrollWidth") <= width
    browser.devtools("Emulation.clearDeviceMetricsOverride")


def test_nothing_but_the_page_runs_in_it(server):
    found = server.get("/")
    rule = found.headers["content-security-policy"]
    assert rule == policy(HTML)
    assert "default-src 'none'" in rule
    assert "unsafe" not in rule
    assert policy(HTML.replace(b"poll();\n</script>", b"</script>")) != rule
    assert not re.search(rb"(src|href)=\"?(https?:)?//", HTML)


def test_no_page(start):
    with start(demo=False) as server:
        assert server.get("/").status_code == 404
