"""Bad input ends in one readable paragraph, the right exit status, and nothing half-written."""

import json
import resource
import shutil
import signal

import pytest
from command import cai, cai_process, rows, start, write_inputs, write_pipeline
from tiny_models import make_tiny_model


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    model = make_tiny_model("llama", folder / "model")
    return folder, write_pipeline(folder, model), write_inputs(folder)


def fails(*args, status=1, run=cai, **options):
    done = run(*args, **options)
    said = done.stderr.strip()
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in said
    assert said
    return said


def test_a_pipeline_that_is_not_there():
    assert "quickstart" in fails("run", "nowhere.yaml")


def test_a_wrong_command_line_is_status_2():
    fails("run", status=2)
    fails("frobnicate", status=2)
    fails("export", "run", "--out", "x", status=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "broken"),
        ("name: x\nnonsense: 1\n", "nonsense"),
        ("- a\n- b\n", "mapping"),
        ("", "empty"),
    ],
)
def test_broken_pipelines(tmp_path, text, message):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    assert message in fails("run", path)
    assert [p.name for p in tmp_path.iterdir()] == ["broken.yaml"]


def test_a_constitution_with_a_duplicate_id(world, tmp_path):
    _, pipeline, inputs = world
    path = tmp_path / "twice.yaml"
    path.write_text(
        "schema: 1\nname: twice\nprinciples:\n"
        "  - {id: a, comparison: Better}\n  - {id: a, comparison: Worse}\n"
    )
    said = fails("run", pipeline, *inputs, "--set", f"constitution={path}", "--out", tmp_path / "r")
    assert "twice.yaml:5" in said
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "missing.jsonl"),
        ("empty.jsonl", b"", "empty"),
        ("blank.jsonl", b'{"prompt": "  "}\n', "no prompt"),
        ("torn.jsonl", b'{"prompt": "a"}\n{"prompt": \n', "torn.jsonl:2"),
        (
            "pointer.jsonl",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "git lfs pull",
        ),
    ],
)
def test_prompt_files(world, tmp_path, name, content, message):
    _, pipeline, inputs = world
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    said = fails(
        "run", pipeline, *inputs, "--set", f"prompts.red_team={path}", "--out", tmp_path / "run"
    )
    assert message in said
    assert not list((tmp_path / "run").glob("*/*.jsonl"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["ppo.launch=nowhere"], "neither a file nor one of ddp"),
        (["ppo.launch=fsdp2", "ppo.processes=2", "ppo.lora_rank=4"], "launch with `ddp`"),
        (["ppo.ptx_data=nowhere.txt", "ppo.ptx_coef=0.1"], "nowhere.txt"),
    ],
)
def test_what_ppo_lacks_is_said_before_any_stage(world, tmp_path, changes, message):
    _, pipeline, inputs = world
    changes = [word for change in changes for word in ("--set", change)]
    assert message in fails("run", pipeline, *inputs, *changes, "--out", tmp_path / "run")
    assert not list((tmp_path / "run").glob("*/*"))


def broken_model(folder, tmp_path, break_it):
    model = tmp_path / "model"
    shutil.copytree(folder / "model", model)
    break_it(model)
    return model


def without_template(model):
    for name in ("chat_template.jinja",):
        (model / name).unlink(missing_ok=True)
    path = model / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("chat_template", None)
    path.write_text(json.dumps(config))


def without_tokenizer(model):
    for path in model.glob("tokenizer*"):
        path.unlink()


def truncated(model):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (without_template, "format: transcript"),
        (without_tokenizer, "tokenizer"),
        (truncated, "model.safetensors"),
        (lambda model: (model / "config.json").unlink(), "config.json"),
        (lambda model: (model / "model.safetensors").unlink(), "weights"),
    ],
)
def test_model_folders(world, tmp_path, break_it, message):
    folder, pipeline, inputs = world
    model = broken_model(folder, tmp_path, break_it)
    said = fails(
        "run", pipeline, *inputs, "--set", f"models.helpful.path={model}", "--out", tmp_path / "run"
    )
    assert message in said
    assert not (tmp_path / "run/revise/rows.jsonl").exists()


def test_a_full_disk_loses_nothing_and_says_so(world, tmp_path):
    """A limit on file size stands in for the full disk: the write fails in the same place."""
    _, pipeline, inputs = world
    arguments = ["run", pipeline, *inputs, "--out", tmp_path / "run", "--only", "revise"]
    assert cai(*arguments[:-1], "prompts").returncode == 0

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))

    said = fails(*arguments, run=cai_process, preexec_fn=limit)
    assert "Cannot write" in said
    assert not (tmp_path / "run/revise/rows.jsonl").exists()
    assert cai(*arguments).returncode == 0


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [(signal.SIGINT, 130, "Stopped. "), (signal.SIGTERM, 143, "Stopped by SIGTERM. ")],
)
def test_a_stopped_run_says_so_and_can_be_continued(world, tmp_path, sent, status, said):
    _, pipeline, inputs = world
    arguments = ["run", pipeline, *inputs, "--out", tmp_path / "run"]
    process = start(*arguments, "--set", "revise.rounds=40")
    for line in process.stdout:
        if line.startswith("revise:"):
            break
    process.send_signal(sent)
    printed, _ = process.communicate()
    assert process.returncode == status, printed
    assert f"{said}What is finished is kept: run the same command to continue" in printed
    assert "Traceback" not in printed


def test_two_runs_in_one_folder_are_refused(world, tmp_path):
    _, pipeline, inputs = world
    arguments = ["run", pipeline, *inputs, "--out", tmp_path / "run"]
    process = start(*arguments, "--set", "revise.rounds=40")
    for line in process.stdout:
        if line.startswith("revise:"):
            break
    said = fails(*arguments)
    process.kill()
    process.communicate()
    assert "Another process" in said


def test_a_constitution_whose_examples_do_not_fit_the_model_ends_the_run(tmp_path):
    limits = ("--set", "prompts.red_team.limit=12", "--set", "prompts.helpful.limit=1")
    done = cai("run", "label", "--set", "constitution=harmless", *limits, "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "came to its end" in done.stderr
    assert "the model's context is 512" in done.stderr
    assert all(row["response"] for row in rows(tmp_path / "run/revise/rows.jsonl"))
