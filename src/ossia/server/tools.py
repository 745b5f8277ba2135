"""The toolbox, under the names that the APIs know it by so far."""

from ossia.tools.toolbox import DeclaredCustom
from ossia.tools.toolbox import Toolbox as Tools
from ossia.tools.toolbox import ToolChoice as Choice
from ossia.tools.toolbox import ToolTarget as Callee

__all__ = ["Callee", "Choice", "DeclaredCustom", "Tools"]
