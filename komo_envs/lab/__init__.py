"""A laboratory: its robot, its cameras and where they are, its markers, and who operates it."""

from komo_envs.lab.cameras import CameraLost
from komo_envs.lab.config import Lab, LabCamera, Marker, check_lab, load_lab, make_lab
from komo_envs.lab.operator import Operator, TerminalOperator
from komo_envs.lab.perception import Live

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
