"""The one driver: carries out machines' effects through four ports, on the network and in the simulator alike."""
