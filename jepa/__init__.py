"""From raw video to a robot that reaches a goal image: pre-train, probe, post-train, plan."""
