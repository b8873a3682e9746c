"""A laboratory: its robot, its cameras and where they are, its markers, and who operates it."""

from komo_envs.lab.cameras import CameraLost
from komo_envs.lab.config import Lab, LabCamera, Marker, load_lab, make_lab
from komo_envs.lab.operator import Operator, TerminalOperator

__all__ = [
    "CameraLost",
    "Lab",
    "LabCamera",
    "Marker",
    "Operator",
    "TerminalOperator",
    "load_lab",
    "make_lab",
]
