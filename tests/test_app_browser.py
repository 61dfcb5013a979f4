"""The page as a person has it, in headless Chromium."""

import re
import wave

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from tiny_page import EVIL, open_tiny, page_of, served, tiny_root

from modeling_dualspace.app import build_app
from modeling_dualspace.index import open_index
from modeling_dualspace.media import Limits

FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--mute-audio"]
WAVEFORM = "Waveform load error: MediaError"
"""What Gradio's player of sounds says of a file that is none; the page says it too."""
EARLY = ["--autoplay-policy=no-user-gesture-required"]


def write_tone(path, slowness=9):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((9_000 * np.sin(np.arange(16_000) / slowness)).astype("<i2").tobytes())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tiny_root(tmp_path_factory)
    write_tone(root / "tone.wav")
    Image.fromarray(np.full((40, 60, 3), 99, np.uint8)).save(root / "grey.png")
    (root / "notes.wav").write_text("no sound at all")
    (root / "large.wav").write_bytes(b"x" * 1_500_000)
    return root


@pytest.fixture(scope="module")
def url(root):
    with served(page_of(root, limits=Limits(seconds=5, bytes=1_000_000))) as address:
        yield address


@pytest.fixture(scope="module")
def browser_at():
    """Starts a browser once, where there is one."""
    started = []

    def start(path):
        if not started:
            playwright = sync_playwright().start()
            started.append((playwright, playwright.chromium.launch(executable_path=path, args=FLAGS + EARLY)))
        return started[0][1]

    yield start
    for playwright, browser in started:
        browser.close()
        playwright.stop()


@pytest.fixture(scope="module")
def contexts():
    """Of the browser, by width and theme: what was loaded once is there for the next."""
    return {}


@pytest.fixture
def visit(url, browser_at, needs_tool, contexts):
    """`visit(width, theme)`: the page, opened; in the end it must have had nothing to complain of."""
    browser, pages, complaints, outside, refusals = browser_at(needs_tool("chromium")), [], [], [], []

    def complain(message):
        if "the server responded with a status of 403" in message.text and refusals:
            refusals.pop()
            return
        if message.type == "error" and message.text != WAVEFORM:
            complaints.append(message.text)

    def open_page(width=1400, theme="light", at=url, new=False, refused=0):
        refusals.extend([403] * refused)
        settings = {"viewport": {"width": width, "height": 900}, "color_scheme": theme}
        if new or (width, theme) not in contexts:
            contexts[width, theme] = browser.new_context(**settings)
        page = contexts[width, theme].new_page()
        pages.append(page)
        page.set_default_timeout(15_000)
        page.on("console", complain)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda one: outside.append(one.url) if not re.match(f"{at}|data:|blob:", one.url) else None)
        page.goto(f"{at}/?__theme={theme}")
        page.locator(".ds-example").first.wait_for()
        return page

    yield open_page
    hacked = [page.evaluate("window.hacked") for page in pages]
    for page in pages:
        page.close()
    assert complaints == [] and outside == [] and not any(hacked)


def send(page, kind, file):
    """Chooses a file where a person would."""
    page.get_by_role("tab", name=kind, exact=True).click()
    page.locator(f"#ds-{kind.lower()} input[type=file]").set_input_files(file)


def found(page, words):
    """The line above the cards, once it says so; and the cards."""
    expect(page.locator(".ds-line")).to_contain_text(words)
    return page.locator(".ds-card")


@pytest.mark.slow
def test_an_example_is_one_click_and_its_clips_play_from_their_second_on(visit):
    page = visit()
    expect(page.locator(".ds-example")).to_have_count(6)
    page.locator(".ds-example").nth(2).click()
    cards = found(page, "by their pictures for the sound of")
    expect(cards).to_have_count(10)
    player = cards.first.locator("video")
    assert re.search(r"clip/0/[\w-]+#t=0\.1,0\.4$", player.get_attribute("src"))
    page.wait_for_function("document.querySelector('.ds-card video').currentTime >= 0.1")
    player.evaluate("player => player.play()")
    page.wait_for_function("document.querySelector('.ds-card video').currentTime > 0.15")
    cards.nth(1).locator("video").evaluate("player => player.play()")
    page.wait_for_function("document.querySelector('.ds-card video').paused")  # one at a time
    cards.first.get_by_role("button", name="Search with these pictures").click()
    found(page, "by their sound for the pictures of")


@pytest.mark.slow
def test_a_sound_finds_pictures_and_on_demand_sounds(visit, root):
    page = visit()
    send(page, "Sound", root / "tone.wav")
    expect(found(page, "for the sound of tone.wav")).to_have_count(10)
    page.locator("#ds-among").get_by_label("sounds").check()
    page.get_by_role("button", name="Search", exact=True).click()
    found(page, "by their sound for the sound of")


def test_a_film_asks_by_its_pictures_or_by_its_sound(visit, root):
    page = visit(390, "dark")
    send(page, "Film", next((root / "films" / "drum").glob("*.mp4")))
    found(page, "by their sound for the pictures of drum-0000.mp4")
    page.locator("#ds-modality").get_by_label("its sound").check()
    expect(page.locator("#ds-among").get_by_label("pictures")).to_be_checked()
    page.get_by_role("button", name="Search", exact=True).click()
    found(page, "by their pictures for the sound of drum-0000.mp4")
    page.wait_for_function(
        "document.querySelector('.ds-line').getBoundingClientRect().top < innerHeight"
    )  # it is shown
    assert page.evaluate("[document.documentElement.scrollWidth, document.body.classList.contains('dark')]") == [
        390,
        True,
    ]


@pytest.mark.slow
def test_a_picture_finds_sounds(visit, root):
    page = visit()
    send(page, "Picture", root / "grey.png")
    found(page, "by their sound for the picture grey.png")


@pytest.mark.slow
def test_what_the_microphone_hears_is_searched_with(visit):
    page = visit()
    page.locator("#ds-sound").get_by_label("Record audio").click()
    page.locator("#ds-sound .record-button").click()
    page.wait_for_timeout(1_200)
    page.locator("#ds-sound .stop-button").first.click()
    found(page, "by their pictures for the sound of")


def test_filters_narrow_what_is_found(visit, root):
    page = visit()
    page.get_by_role("button", name="Filter, and how many").click()
    page.locator("#ds-where").get_by_role("textbox").fill("year>=2004, year<2008")
    send(page, "Sound", root / "tone.wav")
    expect(found(page, "4 clips")).to_have_count(4)


@pytest.mark.slow
def test_labels_narrow_further_and_no_filter_is_told(visit, root):
    page = visit()
    page.get_by_role("button", name="Filter, and how many").click()
    page.locator("#ds-where").get_by_role("textbox").fill("year>=2004, year<2008")
    send(page, "Sound", root / "tone.wav")
    found(page, "4 clips")
    page.locator("#ds-labels input").click()
    page.get_by_role("option", name="engine").click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(found(page, "1 clip by")).to_have_count(1)
    page.locator("#ds-where").get_by_role("textbox").fill("year2004")
    page.locator("#ds-where").get_by_role("textbox").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("A filter is like year>=2010")


def test_a_point_of_the_map_plays_its_clip_by_pointer_and_by_keyboard(visit):
    page = visit()
    page.locator(".ds-example").nth(2).click()
    found(page, "by their pictures")
    page.get_by_role("tab", name="Map").click()
    expect(page.locator(".point")).to_have_count(20)
    expect(page.locator(".query")).to_have_count(1)
    expect(page.locator(".point.found")).to_have_count(10)
    page.locator(".map-legend button", has_text="rain").click()
    expect(page.locator(".point.dim")).to_have_count(18)
    page.locator(".map-legend button", has_text="rain").click()
    expect(page.locator(".point.dim")).to_have_count(0)
    assert page.locator(".map-legend button").first.text_content() == EVIL
    # One that no other lies on: it is clicked by a pointer that knows places only.
    free = """points => points.findIndex(point => {
        const {x, y, width, height} = point.getBoundingClientRect();
        return document.elementFromPoint(x + width / 2, y + height / 2) === point;
    })"""
    page.locator(".map-frame").scroll_into_view_if_needed()
    point = page.locator(".point.audio").nth(page.locator(".point.audio").evaluate_all(free))
    name = point.get_attribute("aria-label")
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator(".map-tip")).to_be_visible()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator(".map-panel b")).to_have_text(re.sub(r", [^,]*, \w+$", "", name))
    assert page.locator(".map-panel video").get_attribute("src").startswith("clip/0/")
    page.wait_for_function("document.querySelector('.map-panel video').currentTime > 0.1")
    point.focus()
    page.keyboard.press("ArrowRight")
    other = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert other and other != name
    page.keyboard.press("Enter")
    expect(page.locator(".map-panel b")).to_have_text(re.sub(r", [^,]*, \w+$", "", other))
    page.locator(".map-panel").get_by_role("button", name="Search with this").click()
    page.get_by_role("tab", name="Clips").click()
    expect(page.locator(".ds-line q")).to_have_text(re.sub(r" \d:.*", "", other))


def test_wrong_files_and_too_large_ones_are_told_kindly(visit, root):
    page = visit()
    send(page, "Sound", root / "notes.wav")
    expect(page.get_by_role("alert")).to_contain_text("'notes.wav' is no film that can be read")
    page.locator(".ds-example").nth(2).click()  # and the page goes on
    found(page, "by their pictures")
    page.locator("#ds-sound").get_by_label("Clear").click()
    send(page, "Sound", root / "large.wav")
    expect(page.get_by_text('File(s) exceed the maximum allowed size of 976.6 Kb: "large.wav"').first).to_be_visible()


@pytest.mark.slow
def test_nothing_to_search_with_is_said(visit):
    page = visit()
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("nothing to search with yet")


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_narrow_screen_shows_all_of_it_in_either_theme(visit, theme):
    page = visit(390, theme)
    page.locator(".ds-example").nth(2).click()
    found(page, "by their pictures")
    page.wait_for_function(
        "document.querySelector('.ds-line').getBoundingClientRect().top < innerHeight"
    )  # it is shown
    for tab in ("Map", "Model", "About", "Search"):
        page.get_by_role("tab", name=tab, exact=True).click()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")


@pytest.mark.slow
def test_model_and_index_are_described(visit):
    page = visit()
    page.get_by_role("tab", name="Model").click()
    expect(page.get_by_text("No result lies beside this model")).to_be_visible()
    page.get_by_role("tab", name="About").click()
    expect(page.get_by_text("10, of 10 films")).to_be_visible()
    expect(page.get_by_text("It may have 1 MB and 5 seconds at most.")).to_be_visible()


@pytest.mark.slow
def test_twenty_visitors_search_at_once(visit, root):
    pages = [visit(new=True) for _ in range(20)]
    for number in range(1, 20, 2):
        write_tone(root / f"tone-{number}.wav", slowness=number)
    for number, page in enumerate(pages):  # none is waited for
        if number % 2:
            page.locator("#ds-sound input[type=file]").set_input_files(root / f"tone-{number}.wav")
        else:
            page.locator(".ds-example").nth(number % 6).click(no_wait_after=True)
    for number, page in enumerate(pages):
        words = f"by their pictures for the sound of {f'tone-{number}.wav' if number % 2 else ''}"
        expect(page.locator(".ds-line")).to_contain_text(words, timeout=60_000)
        expect(page.locator(".ds-card")).to_have_count(10)


@pytest.mark.slow
def test_another_index_is_chosen_and_searched(visit, root, tmp_path):
    with open_tiny(root) as index:
        index.save(tmp_path / "other")
    with open_tiny(root) as first, open_index(tmp_path / "other", films=root / "films") as other:
        other.delete([hit.clip_id for hit in other.sample()[0] if not hit.clip_id.startswith(("rain", "drum", "dog"))])
        with served(build_app([first, other])) as address:
            page = visit(at=address)
            page.locator("#ds-model input").click()
            page.get_by_role("option", name="other").click()
            expect(page.locator(".ds-example")).to_have_count(len(other))
            page.locator(".ds-example").first.click()
            expect(found(page, "by their pictures")).to_have_count(len(other))
            assert page.locator(".ds-card video").first.get_attribute("src").startswith("clip/1/")
            page.get_by_role("tab", name="Map").click()
            expect(page.locator(".point")).to_have_count(2 * len(other))
            page.get_by_role("tab", name="Model").click()
            expect(page.locator(".ds-prose h2").first).to_have_text(re.compile(" · other$"))


@pytest.mark.slow
def test_what_was_kept_for_long_enough_is_asked_for_again(visit, root):
    with served(page_of(root, keep=2.0)) as address:
        page = visit(at=address, refused=1)
        send(page, "Sound", root / "tone.wav")
        found(page, "for the sound of tone.wav")
        page.wait_for_timeout(4_500)
        page.get_by_role("button", name="Search", exact=True).click()
        expect(page.get_by_text("it was kept for 2 seconds: send it again")).to_be_visible()
