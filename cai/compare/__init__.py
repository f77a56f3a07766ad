"""The feedback stage's data: responses that are compared, and AI labels (paper, section 4.1).

Three kinds of rows, so that an edit redoes only what it touches: pairs (responses to one prompt),
judgements (raw evidence on one pair under one principle) and comparisons (labels, derived from the
evidence without asking a model).
"""

from cai.compare.evidence import (
    VERSION,
    JudgementInputs,
    instead_of,
    judge,
    judgement_items,
    questions_of,
    steps,
)
from cai.compare.forms import FORMS, Asking, Form
from cai.compare.labels import (
    by_order,
    by_pair,
    comparison_key,
    evidence_on,
    expected_grade,
    first_preferred,
    grades,
    is_usable,
    label_all,
    label_pair,
    orders_agree,
    preference,
    twos_of,
)
from cai.compare.pairs import pair_item, respond

__all__ = [
    "FORMS",
    "VERSION",
    "Asking",
    "Form",
    "JudgementInputs",
    "by_order",
    "by_pair",
    "comparison_key",
    "evidence_on",
    "expected_grade",
    "first_preferred",
    "grades",
    "instead_of",
    "is_usable",
    "judge",
    "judgement_items",
    "label_all",
    "label_pair",
    "orders_agree",
    "pair_item",
    "preference",
    "questions_of",
    "respond",
    "steps",
    "twos_of",
]
