"""Draw the README's pictures anew: screenshots of what commands write, on the drawn sample, in Debian's Chromium.

    python docs/draw_pictures.py            # seven minutes on 2 cores; writes docs/pictures/

The runs are those of one sweep, in a temporary folder unless `--work DIR` keeps them for the next time.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

PICTURES = Path(__file__).parent / "pictures"
SWEEP = [
    *("-m", "sweep=demo", "data=demo"),
    *("data.image_size=64", "optimizer=adamw", "optimizer.lr=0.003", "trainer.max_epochs=10"),
    *("finetune=head,lp_ft,full", "aug=none,light", "seed=0,1,2"),
]
PORT = 6017
WIDTH = 1200  # pixels
TAGS = "%5Elr%2F(head%7Cblock1%7Cblock7%7Cblock12)%24%7Cval%2Facc%24%7Ctrain%2Floss%24"
LARGEST = 200_000  # bytes


def tlab(command: str, *overrides: str, cwd: Path) -> None:
    """Run a command of tlab."""
    subprocess.run([sys.executable, "-m", f"tlab.{command}", *overrides], cwd=cwd, check=True)


def keep(page: Page, name: str) -> None:
    """Write what the page shows as `pictures/<name>`."""
    file = PICTURES / name
    page.screenshot(path=file, **({"quality": 85} if file.suffix == ".jpg" else {}))
    if file.stat().st_size > LARGEST:
        raise SystemExit(f"{file} has {file.stat().st_size} bytes, more than {LARGEST}")
    print(f"{file}: {file.stat().st_size} bytes")


def tensorboard(page: Page, runs: Path) -> None:
    """Show the scalars of runs in TensorBoard."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", ".", "--port", str(PORT)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=runs)
    try:
        address = f"http://localhost:{PORT}"
        for _ in range(60):
            try:
                urllib.request.urlopen(address)
                break
            except urllib.error.URLError:
                time.sleep(1)
        page.goto(f"{address}/?darkMode=false#scalars&tagFilter={TAGS}")
        page.wait_for_timeout(8000)  # until its charts are drawn
        keep(page, "tensorboard.png")
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Train, then draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder that keeps the runs")
    args = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        work = (args.work or Path(folder)).resolve()
        if not (sweep := work / "outputs" / "multirun" / "demo").exists():
            tlab("train", *SWEEP, cwd=work)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 920})
        page.goto((sweep / "report.html").as_uri())
        page.wait_for_timeout(1000)
        keep(page, "comparison.png")
        best = sweep / "aug=none,finetune=lp_ft" / "seed=0"
        tlab("evaluate", f"run={best}", "report=true", cwd=work)
        page.goto((best / "report_test.html").as_uri())
        page.wait_for_timeout(1000)
        page.set_viewport_size({"width": WIDTH, "height": 640})
        page.locator("#mistakes h2").evaluate("heading => scrollTo(0, heading.offsetTop - 20)")
        keep(page, "mistakes.jpg")
        page.set_viewport_size({"width": WIDTH, "height": 760})
        tensorboard(page, sweep / "aug=none,finetune=lp_ft")
        browser.close()


if __name__ == "__main__":
    main()
