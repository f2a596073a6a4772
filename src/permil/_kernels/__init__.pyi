from . import compare as compare
from . import exposures as exposures
from . import isr as isr
from . import simulate as simulate
from . import spots as spots

def levels() -> list[str]: ...
def use_level(name: str) -> None: ...
