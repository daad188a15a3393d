"""From a traced QCFS network to the graph of a spiking one."""
