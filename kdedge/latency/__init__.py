"""How long an artifact takes on a device: fresh processes, raw samples, percentiles with floors, medians with intervals."""
