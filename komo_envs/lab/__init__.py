"""A laboratory: its robot, its cameras and where they are, its markers, and who operates it."""

from komo_envs.lab.live import Live
from komo_envs.lab.operator import Operator, TerminalOperator
from komo_envs.lab.setup import Lab, LabCamera, Marker, check_lab, load_lab, make_lab
from komo_envs.lab.streams import CameraLost

__all__ = [
    "CameraLost",
    "Lab",
    "LabCamera",
    "Live",
    "Marker",
    "Operator",
    "TerminalOperator",
    "check_lab",
    "load_lab",
    "make_lab",
]
