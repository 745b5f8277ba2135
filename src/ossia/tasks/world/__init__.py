"""The fictional country: its people, towns and facts, and questions about them."""

from ossia.tasks.world.country import World as World
from ossia.tasks.world.country import world as world
