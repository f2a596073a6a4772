from . import beam as beam
from . import exposures as exposures
from . import flat as flat
from . import isr as isr
from . import joint as joint

def levels() -> list[str]: ...
def use_level(name: str) -> None: ...
