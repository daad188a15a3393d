"""Is a converted network exact? Every spike count, prediction and output beside the QCFS network."""
