"""Everything that touches the network: names, connections, bodies, and the errors of all three."""
