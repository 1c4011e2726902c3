"""The warm start: a preloaded server whose forks serve what a launcher (guest_agent/src/launcher) is started with."""
