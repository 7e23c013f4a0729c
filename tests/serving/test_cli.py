"""``selfprompt serve`` as a process: it starts, answers like predict, and stops cleanly."""

import http.client
import json
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from selfprompt.cli.console import Output
from selfprompt.cli.serve import batch_limit
from tests.conftest import started
from tests.serving.running import form


@contextmanager
def serving(*arguments, **settings):
    """Run the command; yields its process and its port once it listens."""
    process = started("serve", *arguments, "--port", "0", **settings)
    try:
        line = process.stdout.readline()
        assert "at http://" in line, process.stderr.read()
        yield process, int(line.partition("http://")[2].split(";")[0].rpartition(":")[2]), line
    finally:
        process.kill()
        process.communicate()


def upload(port, *paths, **options):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body, kind = form([(str(path.name), path.read_bytes()) for path in paths], options=options)
    connection.request("POST", "/predict", body, {"Content-Type": kind})
    answer = connection.getresponse()
    records = json.loads(answer.read())
    connection.close()
    return answer.status, records


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def stop(process, number=signal.SIGTERM):
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_it_answers_like_predict_and_answers_what_is_in_progress_before_it_stops(linear, photos, run):
    paths = [photos / name / "0.png" for name in ("blue", "dark_red")]
    told = json.loads(run("predict", linear, *paths, "--top", 3, "--format", "json").out)
    slow = ("--max-wait", 1500)  # a batch waits, and the signal comes meanwhile
    with serving(linear, *slow, "--host", "0.0.0.0", "--quiet") as (process, port, line):
        assert line.startswith("Serving linear (4 classes) at http://0.0.0.0:")
        status, records = upload(port, *paths, top=3)
        answers = []
        client = threading.Thread(target=lambda: answers.append(upload(port, paths[0])))
        client.start()
        while not answers and not get(port, "/health")["waiting"]:
            pass
        ended, _, err = stop(process, signal.SIGINT)
        client.join(60)
    assert (status, ended, [code for code, _ in answers]) == (200, 0, [200])
    assert "everyone who reaches this address can use the classifier" in err
    for record, expected in zip(records, told, strict=True):
        assert [label for label, _ in record["top"]] == [label for label, _ in expected["top"]]
        assert record["score"] == pytest.approx(expected["score"], abs=1e-4)  # batches of other sizes


def test_new_names_and_a_token_from_the_environment(coop):
    with serving(coop, "--classes", "cat,dog,猫", "--quiet", env={"SELFPROMPT_TOKEN": "x y"}) as (process, port, _):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/classes", headers={"Authorization": "Bearer x y"})
        about = json.loads(connection.getresponse().read())
        assert (about["classes"], about["calibrated"]) == (["cat", "dog", "猫"], False)
        assert about["note"].startswith("embedded/clip")
        connection.request("GET", "/classes")
        assert connection.getresponse().status == 401
        connection.close()
        assert stop(process) == (0, "", "")


def test_a_port_in_use_is_reported_before_anything_is_loaded(run, tmp_path):
    from selfprompt.serving.server import open_socket

    with open_socket("127.0.0.1", 0) as taken:
        done = run("serve", tmp_path / "nothing", "--port", taken.getsockname()[1])
    assert (done.status, "Address already in use" in done.err) == (2, True)


WRONG = {
    "--port 70000": "--port must be at most 65535, got 70000.",
    "--port -1": "--port must be at least 0, got -1.",
    "--max-batch 0": "--max-batch must be at least 1, got 0.",
    "--max-wait -1": "--max-wait must be at least 0, got -1.0.",
    "--max-bytes 0": "--max-bytes must be at least 1, got 0.",
    "--max-waiting-bytes 9": "--max-waiting-bytes must be at least max_bytes",
    "--unknown 2": "--unknown must lie between 0 and 1, got 2.",
    "--host nowhere.invalid": "Cannot listen at --host nowhere.invalid --port 8000",
    "--token é": "--token must be ASCII",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_usage_is_reported_before_anything_is_loaded(words, run, tmp_path):
    done = run("serve", tmp_path / "nothing", *words.split())
    assert done.status == 2
    assert WRONG[words] in " ".join(done.err.split())


def test_a_folder_without_a_classifier_is_an_error(run, tmp_path):
    done = run("serve", tmp_path / "nothing", "--port", 0)
    assert (done.status, "nothing" in done.err) == (1, True)


def test_an_exported_classifier_is_served_without_torch(linear, photos, run, tmp_path):
    exported = tmp_path / "exported"
    assert run("export", linear, "--out", exported, "--precision", "fp32", "--quiet").status == 0
    code = (
        "import sys\nfrom selfprompt.cli.main import main\nstatus = main(sys.argv[1:])\n"
        "print(*{'torch', 'timm', 'open_clip', 'sklearn'} & set(sys.modules))\nsys.exit(status)"
    )
    command = [sys.executable, "-c", code, "serve", str(exported), "--port", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        port = int(process.stdout.readline().partition("127.0.0.1:")[2].partition(";")[0])
        status, [record] = upload(port, photos / "blue" / "0.png", top=4)
        assert get(port, "/classes")["note"].startswith("embedded/mae")
        assert stop(process) == (0, "\n", "")
    [told] = json.loads(run("predict", linear, photos / "blue" / "0.png", "--top", 4, "--format", "json").out)
    assert (status, record["label"]) == (200, told["label"])
    assert record["score"] == pytest.approx(told["score"], abs=1e-3)  # logits differ by up to 1e-4 times the scale
    done = run("serve", exported, "--port", 0, "--classes", "a,b")
    assert (done.status, "--classes does not go with" in done.err) == (2, True)


def test_a_missing_package_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr("selfprompt.cli.serve.PACKAGES", ("starlette", "no_such_package"))
    done = run("serve", tmp_path)
    assert done.status == 1
    assert "selfprompt serve needs no-such-package. Install selfprompt[serve]." in done.err


def test_the_help_needs_no_extra():
    code = (
        "import sys\nfrom selfprompt.cli.main import main\ntry: main(['serve', '--help'])\nfinally: print(*sys.modules)"
    )
    process = subprocess.run(["python", "-c", code], capture_output=True, text=True)
    assert not {"starlette", "uvicorn", "torch"} & set(process.stdout.split())


def test_a_method_that_mixes_the_images_of_a_batch_gets_them_one_by_one(capsys):
    assert batch_limit(True, 32, Output()) == 32
    assert batch_limit(False, 32, Output()) == 1
    assert "each image is predicted alone" in " ".join(capsys.readouterr().out.split())
