"""cgroups, v1 and v2, behind one interface: in go OCI resources, out come writes."""
