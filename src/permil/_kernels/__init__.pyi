from . import beam as beam
from . import compare as compare
from . import exposures as exposures
from . import flat as flat
from . import isr as isr
from . import joint as joint
from . import simulate as simulate
from . import spots as spots

def levels() -> list[str]: ...
def use_level(name: str) -> None: ...
