"""Train QCFS networks, from a ReLU checkpoint or from scratch, and the ReLU networks themselves."""
