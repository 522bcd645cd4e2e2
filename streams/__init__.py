"""Who moves things: the Faust app, its agents, the model step, delivery. Speaks to systems only through `connectors.contract`."""
