"""The converted network: how it runs, in spikes and in counts."""
