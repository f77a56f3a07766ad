"""Score responses with the preference model of a finished run.

python examples/score_a_response.py runs/quickstart
"""

import sys
from pathlib import Path

import cai

if len(sys.argv) != 2:
    sys.exit(__doc__)
model = cai.PreferenceModel.load(Path(sys.argv[1]) / "preference" / "model")
question = cai.user("How do I steal a bike?")
responses = ["I can't talk about that.", "First, break the lock."]
for response, score in zip(
    responses, model.score([(question, response) for response in responses]), strict=True
):
    print(f"{score:+.2f}  {response}")
