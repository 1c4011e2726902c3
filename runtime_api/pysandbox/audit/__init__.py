"""What a container of a bundle could do, observed from inside and outside; expectations, policies, evidence."""
