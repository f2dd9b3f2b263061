"""The sandbox against a decoder that does its worst, and against the real one."""

import ctypes
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest

from mediaservice import PROJECT
from mediaworker.images import render
from mediaworker.protocol import HEADER
from mediaworker.renditions import VARIANT_WIDTHS, ImageError, Limits
from mediaworker.sandbox import DecoderUnavailable, Sandbox
from tests.builders import loaded_by
from tests.worker.hostile_decoder import SMALLEST
from tests.worker.pictures import FORMATS, animation, encoded, flat, png_bomb, scene

pytestmark = pytest.mark.slow

HOSTILE = "tests.worker.hostile_decoder"
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def real() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def hostile() -> Iterator[Sandbox]:
    with Sandbox(memory_bytes=300 * MEGABYTE, cpu_seconds=1, decoder_module=HOSTILE) as sandbox:
        yield sandbox


@pytest.fixture
def impatient() -> Iterator[Sandbox]:
    with Sandbox(wall_seconds=0.2, decoder_module=HOSTILE) as sandbox:
        yield sandbox


def failure_of(sandbox: Sandbox, original: bytes | str) -> ImageError:
    with pytest.raises(ImageError) as caught:
        sandbox.render(original if isinstance(original, bytes) else original.encode())
    return caught.value


def pid_of(sandbox: Sandbox) -> int:
    return int(failure_of(sandbox, "tell_pid").message)


# A decoder that does its worst


@pytest.mark.parametrize(
    ("order", "code", "said"),
    [
        ("refuse because", "corrupt_image", "because"),
        ("fail somehow", "decoder_crashed", "LookupError('somehow')"),
        ("crash", "decoder_crashed", "the decoder died by SIGSEGV"),
        ("abort", "decoder_crashed", "the decoder died by SIGABRT"),
        ("exit 0", "decoder_crashed", "the decoder exited with status 0"),
        ("exit 3", "decoder_crashed", "the decoder exited with status 3"),
        ("die 40", "decoder_crashed", "the decoder died by signal 40"),
        ("kill SIGKILL", "decoder_out_of_memory", "the decoder died by SIGKILL"),
        pytest.param("spin", "decoder_timeout", "the decoder died by SIGXCPU"),
        (f"allocate {1000 * MEGABYTE}", "decoder_out_of_memory", "an allocation was refused"),
        (f"share_memory {400 * MEGABYTE}", "decoder_out_of_memory", "more than 314572800 bytes"),
    ],
)
def test_each_fault_has_its_code_and_the_next_image_is_rendered(hostile, order, code, said):
    failure = failure_of(hostile, order)
    assert (failure.code, failure.message) == (code, said)
    assert hostile.render(b"render") == SMALLEST


def test_a_decoder_that_hangs_is_given_up(impatient):
    failure = failure_of(impatient, "hang")
    assert (failure.code, failure.message) == ("decoder_timeout", "more than 0.2 seconds")
    assert impatient.render(b"render") == SMALLEST


@pytest.mark.parametrize("wall_seconds", [0.2, 90])
def test_an_image_may_be_worked_on_for_as_long_as_it_is_waited_for(wall_seconds):
    with Sandbox(wall_seconds=wall_seconds, decoder_module=HOSTILE) as sandbox:
        cpu_seconds = float(failure_of(sandbox, "tell_cpu_seconds").message)
    assert wall_seconds <= cpu_seconds <= wall_seconds + 2


def test_a_decoder_that_hangs_up_but_lives_on_is_replaced(hostile):
    before = pid_of(hostile)
    failure_of(hostile, "hang_up")
    assert pid_of(hostile) != before
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


def reply(**fields: object) -> bytes:
    body = msgspec.msgpack.encode(fields)
    return HEADER.pack(len(body)) + body


def rendered(**changes: object) -> dict[str, object]:
    return msgspec.to_builtins(SMALLEST) | {"main": main()} | changes


def main(**changes: object) -> dict[str, object]:
    fields = {"name": "main", "data": SMALLEST.main.data, "width": 1, "height": 1}
    return fields | {"content_type": "image/webp"} | changes


@pytest.mark.parametrize(
    "said",
    [
        HEADER.pack(2**32 - 1),
        HEADER.pack(0),
        HEADER.pack(4) + b"\xc1\xc1\xc1\xc1",
        HEADER.pack(5) + b"(i0\n.",
        HEADER.pack(100_003) + b"\x81\xa1x" + b"\x91" * 100_000,
        reply(),
        reply(rendered=1),
        reply(failure={"code": "made_up", "message": ""}),
        reply(failure={"code": "corrupt_image", "message": "x" * 201}),
        reply(failure={"code": "corrupt_image", "message": "x"}).replace(b"\xa1x", b"\xa1\xff"),
        reply(rendered=rendered(placeholder="<script>alert(1)</script>")),
        reply(rendered=rendered(placeholder=f"{SMALLEST.placeholder}\n")),
        reply(rendered=rendered(variants=[main()] * (len(VARIANT_WIDTHS) + 1))),
        reply(rendered=rendered(main=main(name="../../other"))),
        reply(rendered=rendered(main=main(content_type="text/html"))),
        reply(rendered=rendered(main=main(data=b"<html>" + bytes(100)))),
        reply(rendered=rendered(main=main(width=0))),
        reply(rendered=rendered(main=main(height=2**40))),
        reply(rendered=rendered(main=main(width="1"))),
    ],
)
def test_a_wrong_answer_is_a_crash(hostile, said):
    assert failure_of(hostile, f"say {said.hex()}").code == "decoder_crashed"
    assert hostile.render(b"render") == SMALLEST


def test_the_answers_in_that_test_are_wrong_in_one_thing_only(hostile):
    right = reply(rendered=rendered())
    assert hostile.render(f"say {right.hex()}".encode()) == SMALLEST


def test_the_caller_can_do_something_else_while_it_waits(hostile):
    class EnoughError(Exception):
        pass

    waits = []

    def wait() -> None:
        waits.append(len(waits))
        if len(waits) == 3:
            raise EnoughError

    with pytest.raises(EnoughError):
        hostile.render(b"hang", on_wait=wait)
    assert hostile.render(b"render") == SMALLEST


def test_one_decoder_serves_many_images_and_is_then_replaced():
    with Sandbox(images_per_child=3, decoder_module=HOSTILE) as sandbox:
        pids = [pid_of(sandbox) for _ in range(6)]
    assert pids == [pids[0]] * 3 + [pids[3]] * 3
    assert pids[0] != pids[3]


def test_a_decoder_that_has_run_out_of_memory_is_replaced(hostile):
    before = pid_of(hostile)
    assert failure_of(hostile, f"allocate {1000 * MEGABYTE}").code == "decoder_out_of_memory"
    assert pid_of(hostile) != before


def test_a_decoder_killed_between_two_images_costs_neither(hostile):
    pid = pid_of(hostile)
    killed = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([killed], [], [])
    os.close(killed)
    assert hostile.render(b"render") == SMALLEST


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_stopping_everything_at_once_does_not_cost_the_image_in_hand(hostile, name):
    assert hostile.render(f"kill {name}".encode()) == SMALLEST


def test_closing_ends_the_decoder():
    sandbox = Sandbox(decoder_module=HOSTILE)
    pid = pid_of(sandbox)
    sandbox.close()
    sandbox.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_decoder_that_cannot_start_is_not_the_images_fault(capfd):
    with pytest.raises(DecoderUnavailable, match="exited with status 1"):
        Sandbox(decoder_module="tests.worker.no_such_module").start()
    assert "no_such_module" in capfd.readouterr().err


def test_a_machine_that_starts_no_process_is_not_the_images_fault(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(DecoderUnavailable, match=r"cannot be started: .*No such file"):
        Sandbox().start()


def test_a_busy_decoder_dies_with_its_consumer():
    script = (
        "from mediaworker.sandbox import Sandbox\n"
        "from tests.worker.test_sandbox import pid_of\n"
        f"sandbox = Sandbox(decoder_module={HOSTILE!r})\n"
        "pid = pid_of(sandbox)\n"
        "sandbox.render(b'hang', on_wait=lambda: print(pid, flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as consumer:
        decoder = os.pidfd_open(int(consumer.stdout.readline()))
        consumer.kill()
    ended, _, _ = select.select([decoder], [], [], 30)
    os.close(decoder)
    assert ended


def test_the_consumer_never_loads_a_pixel_library():
    assert not {"pyvips", "pi_heif", "PIL"} & loaded_by("mediaworker.sandbox")


# Confinement


def test_the_decoder_knows_no_secrets_and_can_reach_nothing(hostile, monkeypatch):
    monkeypatch.setenv("S3_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    hostile.close()
    with socket.create_server(("127.0.0.1", 0)) as server:
        failure = failure_of(hostile, f"look_around {server.getsockname()[1]}")
    found = json.loads(failure.message)
    assert set(found["environment"]) <= {"PYTHONPATH", "VIPS_CONCURRENCY", "LC_CTYPE"}
    assert found["core"] == [0, 0]
    version = landlock_version()
    if version >= 1:
        assert (found["read"], found["write"]) == ("denied", "denied")
    if version >= 4:
        assert found["connect"] == "denied"


def landlock_version() -> int:
    create_ruleset, ask_version = 444, 1
    if sys.platform != "linux":
        return 0
    return ctypes.CDLL(None).syscall(create_ruleset, None, ctypes.c_size_t(0), ask_version)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_decoder_has_no_privileges_left(hostile):
    lines = Path(f"/proc/{pid_of(hostile)}/status").read_text().splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    assert status["NoNewPrivs"] == ["1"]
    assert int(status["CapEff"][0], 16) == int(status["CapPrm"][0], 16) == 0
    assert "0" not in status["Uid"]
    assert status["Threads"] == ["1"]


# The real decoder


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_confined_decoder_renders_what_an_unconfined_one_does(real, format_name):
    picture = scene(700, 500).icc_transform("p3")
    original = encoded(picture, format_name)
    assert real.render(original) == render(original)


def test_an_animation_and_a_cmyk_photo_need_nothing_that_is_denied(real):
    original = animation([scene(40, 20), flat(40, 20)], "gif")
    assert real.render(original) == render(original)
    original = encoded(scene(40, 20).icc_transform("cmyk"), "jpeg", keep="none")
    assert real.render(original) == render(original)


@pytest.mark.parametrize(
    ("original", "code"),
    [
        (b"<svg/>", "unsupported_format"),
        (b"\xff\xd8\xff" + bytes(100), "corrupt_image"),
        (png_bomb(50_000, 50_000), "image_too_large"),
    ],
)
def test_what_is_wrong_with_an_original_comes_through(real, original, code):
    assert failure_of(real, original).code == code


def test_the_limits_hold_in_the_decoder():
    original = encoded(scene(40, 20), "png")
    with Sandbox(Limits(max_pixels=799)) as sandbox:
        assert failure_of(sandbox, original).code == "image_too_large"
    with Sandbox(Limits(max_input_bytes=len(original) - 1)) as sandbox:
        assert failure_of(sandbox, original).code == "image_too_large"


@cache
def largest(format_name):
    fast = {"effort": 0} if format_name == "webp" else {}
    return encoded(flat(7_000, 7_000), format_name, **fast)


@pytest.mark.parametrize("format_name", ["jpeg", "png", "webp", "gif", "heic"])
def test_the_largest_image_allowed_needs_neither_much_memory_nor_a_file(format_name):
    original = largest(format_name)
    with Sandbox(memory_bytes=768 * MEGABYTE) as sandbox:
        assert sandbox.render(original).main.width == 2048


def test_an_image_that_needs_too_much_memory_says_so():
    original = largest("webp")
    with Sandbox(memory_bytes=150 * MEGABYTE) as sandbox:
        assert failure_of(sandbox, original).code == "decoder_out_of_memory"
        assert sandbox.render(encoded(scene(40, 20), "png")).main.width == 40


@pytest.mark.parametrize("format_name", FORMATS)
def test_damaged_files_are_rendered_or_refused_but_crash_nothing(real, format_name):
    original = encoded(scene(64, 48), format_name)
    chance = random.Random(format_name)
    for _ in range(60):
        damaged = bytearray(original)
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            real.render(bytes(damaged))
        except ImageError as error:
            assert error.code not in {"decoder_crashed", "decoder_timeout"}  # noqa: PT017
