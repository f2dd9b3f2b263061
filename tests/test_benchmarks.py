"""The parts of benchmarks that judge and show; what they measure is no test's business."""

import pytest
import pyvips

from benchmarks.goals import GOALS, Goal, Verdict
from benchmarks.load import request
from benchmarks.measure import Cost, take_turns
from benchmarks.photos import load_photos, make_photo
from benchmarks.publish import DOCUMENT, RESULTS, SCALE, main, render
from benchmarks.references import pixels
from benchmarks.report import Figure, Report, markdown_table, number, text_table
from benchmarks.rows import sample_owners
from benchmarks.scale import RATES, render_scale
from benchmarks.similarity import mean_ssim, structural_similarity
from mediaservice import PROJECT


def cost(seconds, **values):
    return Cost(operations=10, seconds=seconds, cpu_seconds=seconds / 2, **values)


def compare(ours, reference, name="presign_rate"):
    return Figure.compare(
        name,
        "presign",
        {"ours": [cost(s) for s in ours], "other": [cost(s) for s in reference]},
        ours="ours",
        reference="other",
        reference_title="another",
    )


REACHED = compare([1, 1, 1], [40, 40, 40])
MISSED = Figure("listener_memory", "listener, resident memory", "MB", 82.5)
UNJUDGED = Figure("worker_start", "image worker", "s", 0.04)
REPORT = Report({"cores": 4}, [REACHED, MISSED, UNJUDGED])


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(1.6, Verdict.STRETCH), (1.61, Verdict.GOAL), (2.0, Verdict.GOAL), (2.01, Verdict.MISS)],
)
def test_what_is_to_be_small_is_judged_by_its_upper_bounds(value, verdict):
    assert Goal(2.0, 1.6).judge(value) == verdict


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(30, Verdict.STRETCH), (29.9, Verdict.GOAL), (15, Verdict.GOAL), (14.9, Verdict.MISS)],
)
def test_what_is_to_be_large_is_judged_by_its_lower_bounds(value, verdict):
    assert Goal(15, 30, at_least=True).judge(value) == verdict


def test_a_goal_without_a_stretch_is_only_reached_or_missed():
    assert Goal(1.08).judge(0.5) == Verdict.GOAL
    assert Goal(1.08).judge(1.09) == Verdict.MISS


def test_every_stretch_goal_is_beyond_its_goal():
    for goal in GOALS.values():
        assert goal.stretch is None or goal.judge(goal.stretch) == Verdict.STRETCH
        assert goal.judge(goal.goal) == Verdict.GOAL


def test_sides_are_compared_round_by_round():
    # The second round was slow for both: its ratio is like the others'.
    figure = compare([1, 5, 1], [20, 100, 20])
    assert figure.judged == 20
    assert (figure.ours, figure.reference) == (10, 0.5)
    assert figure.verdict is Verdict.GOAL


def test_a_figure_without_a_reference_is_judged_itself():
    assert MISSED.judged == 82.5
    assert MISSED.verdict is Verdict.MISS
    assert UNJUDGED.verdict is Verdict.UNJUDGED


def test_details_are_per_operation_and_say_nothing_of_what_was_not_measured():
    details = compare([1, 1, 1], [1, 1, 1]).details
    assert details == {"per_second": 10, "cpu_us": 50_000}
    metered = cost(1, servers={"postgresql": 0.1}, wal_bytes=5_000, latency_seconds=0.002)
    figure = Figure.compare("x", "x", {"a": [metered], "b": [metered]}, ours="a", reference="b")
    assert figure.details["postgresql_cpu_us"] == pytest.approx(10_000)
    assert (figure.details["wal_bytes"], figure.details["latency_ms"]) == (500, 2)


def test_every_side_has_its_turn_in_every_round():
    turns = []
    costs = take_turns(
        "test", {name: lambda name=name: turns.append(name) or cost(1) for name in "ab"}, 3
    )
    assert {name: len(taken) for name, taken in costs.items()} == {"a": 3, "b": 3}
    assert [set(turns[at : at + 2]) for at in (0, 2, 4)] == [{"a", "b"}] * 3


def test_a_table_shows_the_goal_and_a_miss():
    heading, reached, missed, unjudged = text_table(REPORT.figures).splitlines()
    assert heading.startswith("figure")
    assert reached.split() == [
        *("presign", "/", "another", "10.0", "/s", "0.25", "/s", "40.00", "≥", "15", "≥", "30"),
        "stretch",
    ]
    assert missed.endswith("MISS")
    assert unjudged.endswith("0.0400 s")


def test_a_document_has_the_same_cells():
    lines = markdown_table(REPORT.figures).splitlines()
    assert {line.count("|") for line in lines} == {8}
    assert lines[3] == "| listener, resident memory | 82.5 MB |  |  | ≤ 70 | ≤ 50 | MISS |"


def test_the_table_is_put_between_its_marks():
    document = "before\n<!-- figures -->\nold\n<!-- /figures -->\nafter\n"
    written = render(document, "figures", REPORT)
    assert written.startswith("before\n<!-- figures -->\n| figure |")
    assert written.endswith("|\n<!-- /figures -->\nafter\n")
    assert "old" not in written
    assert render(written, "figures", REPORT) == written


@pytest.mark.slow
def test_publishing_writes_the_tables_and_the_chart(tmp_path):
    document, scale, chart = (tmp_path / name for name in ("a.md", "b.md", "a.png"))
    document.write_text("<!-- figures -->\n<!-- /figures -->\n")
    scale.write_text("<!-- scale -->\n<!-- /scale -->\n")
    main(RESULTS, document, scale, chart)
    assert markdown_table(Report.read(RESULTS).figures) in document.read_text()
    assert render_scale(Report.read(RESULTS)) in scale.read_text()
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_what_a_rate_takes_is_the_rate_times_what_an_upload_costs():
    lines = render_scale(Report.read(RESULTS)).splitlines()
    costs = {line.split(" | ")[0].strip("| *"): line.split(" | ")[1:] for line in lines}
    upload = [float(cell.strip(" |").replace(",", "")) for cell in costs["one upload"]]
    rates = [float(cell.strip(" |").replace(",", "")) for cell in costs["web, cores"]]
    assert rates == pytest.approx([upload[0] * rate / 1e6 for rate in RATES], rel=0.05)
    logs = [float(cell.strip(" |").replace(",", "")) for cell in costs["WAL, MB/s"]]
    assert logs == pytest.approx([upload[4] * rate / 1e6 for rate in RATES], rel=0.05)


def test_a_run_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "run.json"
    REPORT.write(path)
    found = Report.read(path)
    assert found.about == {"cores": 4}
    assert [figure.verdict for figure in found.figures] == ["stretch", "MISS", ""]
    assert found["presign_rate"] == REACHED
    assert text_table(found.figures) == text_table(REPORT.figures)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0.00"), (0.0123, "0.0123"), (0.5, "0.50"), (12.34, "12.3"), (9876.5, "9,876")],
)
def test_numbers_have_about_three_digits(value, shown):
    assert number(value) == shown


@pytest.mark.slow
def test_the_chart_is_a_picture_with_a_line_for_each_judged_figure(tmp_path):
    from benchmarks.chart import draw

    one, both = tmp_path / "one.png", tmp_path / "both.png"
    draw(Report({}, [REACHED, UNJUDGED]), one)
    draw(REPORT, both)
    pictures = [pyvips.Image.new_from_file(str(path)) for path in (one, both)]
    assert pictures[0].width == pictures[1].width > 1000
    assert pictures[0].height < pictures[1].height
    # A light ground, and bars on it.
    assert pictures[1].avg() > 0.85 * 255
    assert pictures[1].deviate() > 0.05 * 255


def test_a_bar_is_as_long_as_the_figure_is_better_than_its_goal():
    assert REACHED.goal.margin(REACHED.judged) == pytest.approx(40 / 15)
    assert MISSED.goal.margin(MISSED.judged) == pytest.approx(70 / 82.5)


def test_an_image_is_like_itself_and_less_like_a_coarse_copy():
    photo = make_photo(320, 240)
    image = pyvips.Image.new_from_buffer(photo, "")
    fine, coarse = (image.webpsave_buffer(Q=quality) for quality in (90, 5))
    grey = image.colourspace("b-w").cast("float")
    assert mean_ssim(grey, grey) == pytest.approx(1)
    assert 0 < structural_similarity(coarse, photo) < structural_similarity(fine, photo) < 1


def test_made_up_photos_are_the_same_each_time_and_real_ones_are_taken_from_their_folder(tmp_path):
    assert make_photo(160, 120) == make_photo(160, 120)
    (tmp_path / "b.JPG").write_bytes(b"2")
    (tmp_path / "a.png").write_bytes(b"1")
    (tmp_path / "README.md").write_bytes(b"no photo")
    assert load_photos(tmp_path) == {"a.png": b"1", "b.JPG": b"2"}


def test_a_folder_without_photos_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_photos(tmp_path)


def test_renditions_are_told_by_the_whole_name_of_their_original(tmp_path):
    originals, renditions = tmp_path / "originals", tmp_path / "renditions"
    names = {"same.jpg", "same.jpeg", "IMG.2024.jpg"}
    for folder in (originals, renditions):
        folder.mkdir()
    for name in names:
        (originals / name).write_bytes(make_photo(320, 240))
    pixels.main("vips", originals, renditions)
    assert {pixels.original_of(path) for path in renditions.iterdir()} == names


def test_owners_are_drawn_without_repeats_from_those_there_are():
    assert len(set(sample_owners(10_000, 1_000))) == 500
    assert len(set(sample_owners(10_000_000, 1_000))) == 1_000


def test_a_request_has_its_body_and_length():
    sent = request("POST", "/x", headers={"Authorization": "Bearer t"}, body=b"{}")
    head, _, body = sent.partition(b"\r\n\r\n")
    assert body == b"{}"
    assert head.split(b"\r\n")[0] == b"POST /x HTTP/1.1"
    assert {b"Authorization: Bearer t", b"Content-Length: 2"} <= set(head.split(b"\r\n"))


@pytest.mark.parametrize(("path", "part"), [(DOCUMENT, "figures"), (SCALE, "scale")])
def test_the_documents_show_the_run_that_is_kept(path, part):
    kept = path.read_text()
    assert kept == render(kept, part, Report.read(RESULTS)), "run `python -m benchmarks.publish`"


def test_the_run_that_is_kept_judges_every_goal_and_names_no_place():
    assert {figure.name for figure in Report.read(RESULTS).figures} >= set(GOALS)
    text = RESULTS.read_text()
    assert str(PROJECT) not in text
    assert "/" + "home" not in text
