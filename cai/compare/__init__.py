"""The feedback stage's data: responses that are compared, and AI labels (paper, section 4.1).

Three kinds of rows, so that an edit redoes only what it touches: pairs (responses to one prompt),
judgements (raw evidence on one pair under one principle) and comparisons (labels, derived from the
evidence without asking a model).
"""

from cai.compare.evidence import (
    VERSION,
    FeedbackJudge,
    JudgementInputs,
    instead_of,
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
from cai.compare.pairs import Responder

__all__ = [
    "FORMS",
    "VERSION",
    "Asking",
    "FeedbackJudge",
    "Form",
    "JudgementInputs",
    "Responder",
    "by_order",
    "by_pair",
    "comparison_key",
    "evidence_on",
    "expected_grade",
    "first_preferred",
    "grades",
    "instead_of",
    "is_usable",
    "label_all",
    "label_pair",
    "orders_agree",
    "preference",
    "twos_of",
]
