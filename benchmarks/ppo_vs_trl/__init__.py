"""PPO of `cai` beside PPO of TRL 1.12: speed, memory, agreement of the arithmetic."""
