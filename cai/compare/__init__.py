"""The feedback stage's data: responses that are compared, and AI labels (paper, section 4.1).

Three kinds of rows, so that an edit redoes only what it touches: pairs (responses to one prompt),
judgements (raw evidence on one pair under one principle) and comparisons (labels, derived from the
evidence without asking a model).
"""

from cai.compare.evidence import VERSION as VERSION
from cai.compare.evidence import FeedbackJudge as FeedbackJudge
from cai.compare.evidence import JudgementInputs as JudgementInputs
from cai.compare.evidence import instead_of as instead_of
from cai.compare.forms import FORMS as FORMS
from cai.compare.forms import Asking as Asking
from cai.compare.forms import Form as Form
from cai.compare.labels import by_order as by_order
from cai.compare.labels import by_pair as by_pair
from cai.compare.labels import comparison_key as comparison_key
from cai.compare.labels import evidence_on as evidence_on
from cai.compare.labels import expected_grade as expected_grade
from cai.compare.labels import first_preferred as first_preferred
from cai.compare.labels import grades as grades
from cai.compare.labels import is_usable as is_usable
from cai.compare.labels import label_all as label_all
from cai.compare.labels import label_pair as label_pair
from cai.compare.labels import orders_agree as orders_agree
from cai.compare.labels import preference as preference
from cai.compare.labels import twos_of as twos_of
from cai.compare.pairs import Responder as Responder
