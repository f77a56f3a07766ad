"""The results in words: which bounds are missed, and the part of `docs/experiments.md`."""

from typing import Any

from benchmarks.playground_feedback.asking import MEASURED
from benchmarks.playground_feedback.bias import BIAS, bias_share_removed
from benchmarks.show import markdown_table

NAME = "playground_feedback"


def missed_bounds(result: dict[str, Any]) -> list[str]:
    """Say which of the wanted numbers were not reached."""
    said = [
        f"{p['principle']}: accuracy {p['accuracy']:.3f}, wanted at least 0.95"
        for p in result["by_principle"]
        if p["accuracy"] < 0.95
    ]
    said += [
        f"{p['principle']}: {p['from_half']:.3f} from one half, wanted at most 0.05"
        for p in result["by_principle"]
        if p["from_half"] is not None and p["from_half"] > 0.05
    ]
    error = result["forms"][MEASURED]["calibration_error"]["value"]
    if error > 0.05:
        said.append(f"calibration error {error:.3f}, wanted at most 0.05")
    removed = bias_share_removed(result["bias"])
    if removed < 0.9:
        said.append(f"{removed:.0%} of the position bias removed, wanted at least 90%")
    share = result["relabelling"]["share"]
    if share > 0.1:
        said.append(f"relabelling took {share:.0%} of the calls, wanted at most 10%")
    return said


def markdown(result: dict[str, Any]) -> str:
    """Show verdicts by principle, forms beside each other, position bias and relabelling."""

    def number(rate: dict[str, Any]) -> str:
        return "-" if rate["value"] is None else f"{rate['value']:.3f}"

    principles = markdown_table(
        ("principle", "right where it applies", "n", "from one half elsewhere", "n"),
        [
            (
                p["principle"],
                f"{p['accuracy']:.3f}",
                str(p["n"]),
                "-" if p["from_half"] is None else f"{p['from_half']:.3f}",
                str(p["n_not_applying"]),
            )
            for p in result["by_principle"]
        ],
    )
    forms = markdown_table(
        (
            "form",
            "accuracy",
            "labelled",
            "calibration error",
            "flips",
            "calls",
            "tokens in",
            "out",
        ),
        [
            (
                name,
                number(form["accuracy"]),
                number(form["answered"]),
                number(form["calibration_error"]),
                number(form["swap_flips"]),
                f"{form['cost']['calls']:.0f}",
                f"{form['cost']['tokens_in']:.0f}",
                f"{form['cost']['tokens_out']:.0f}",
            )
            for name, form in result["forms"].items()
        ],
    )
    several = markdown_table(
        ("three responses", "accuracy", "labels", "calls", "tokens in", "out"),
        [
            (
                name,
                "-" if form["accuracy"] is None else f"{form['accuracy']:.3f}",
                f"{form['labels']} of {form['of']}",
                f"{form['calls']:.0f}",
                f"{form['tokens_in']:.0f}",
                f"{form['tokens_out']:.0f}",
            )
            for name, form in result["k_wise"].items()
        ],
    )
    first = next(iter(result["forms"].values()))
    bias, edit = result["bias"], result["relabelling"]
    facts = [
        f"- always the first response: {number(first['always_first'])}; the longer one: "
        f"{number(first['longer_wins'])}",
        f"- {BIAS:g} nat in favour of (A) shifts P(response 0) by {bias['signed, first']:+.4f} in "
        f"one order and by {bias['signed, average']:+.4f} in the mean of both: "
        f"{bias_share_removed(bias):.1%} removed (mean size of the shift: "
        f"{bias['absolute, first']:.4f} and {bias['absolute, average']:.4f})",
        f"- rewording `{edit['edited']}`, one of {edit['principles']} principles: "
        f"{edit['relabelling_calls']} engine calls, a full pass {edit['full_pass_calls']} "
        f"({edit['share']:.1%}); over all single edits {edit['mean_share']:.1%} on average, "
        f"{edit['largest_share']:.1%} at most",
    ]
    facts += [f"- missed: {said}" for said in result["missed"]]
    about = (
        f"Made with `--comparisons {result['comparisons']} --per-principle "
        f"{result['per_principle']} --prompts {result['prompts']}`. Costs are per pair, for three "
        "responses per prompt, under six principles. The tiny model has been trained on verdicts "
        "on two responses and on ratings after reasoning; rankings of three and the question after "
        "a critique are new to it."
    )
    return "\n\n".join([principles, forms, several, about, "\n".join(facts)])
