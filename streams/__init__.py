"""Who moves things: the Faust app, its agents, the model step, delivery. Systems are met only as contracts."""
