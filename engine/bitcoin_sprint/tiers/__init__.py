"""The five tiers: what each promises, and what becomes of a frame that can't keep the promise."""

from bitcoin_sprint.tiers.cursor import Action, Cause, Cursor, Lane, Situation, situation_of
from bitcoin_sprint.tiers.policy import ALIASES, TIERS, Delivery, TierPolicy, tier_named

__all__ = [
    "ALIASES",
    "TIERS",
    "Action",
    "Cause",
    "Cursor",
    "Delivery",
    "Lane",
    "Situation",
    "TierPolicy",
    "situation_of",
    "tier_named",
]
