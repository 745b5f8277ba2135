"""Reinforcement learning on rewards that a program, or a judge, gives."""
