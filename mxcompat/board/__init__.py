"""MXBoard's SummaryWriter, written anew: it takes the place of ``mxboard.SummaryWriter``."""
