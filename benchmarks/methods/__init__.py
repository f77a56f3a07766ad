"""Every way from comparisons to a policy, from one SL-CAI and on the same rows."""
