"""Tables of unit names and of counted things.

Units: the SI brochure (BIPM, 9th edition, tables 2, 4, 7 and 8), NIST Handbook 44, appendix C, and currencies.
Counted things: the nouns that follow "how many" at least three times in the questions of GSM8K, ASDiv and MATH, with
common ones of the same kind.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NAMES = {
    "m": "meter metre", "g": "gram gramme", "s": "sec second", "l": "L liter litre", "Hz": "hertz", "N": "newton",
    "J": "joule", "W": "watt", "V": "volt", "A": "amp ampere", "K": "kelvin", "Pa": "pascal", "mol": "mole",
    "eV": "", "cal": "calorie", "Ohm": "ohm", "T": "tesla", "F": "farad", "Q": "coulomb", "Wb": "weber", "bit": "",
    "byte": "", "in": "inch", "ft": "foot feet", "yd": "yard", "mi": "mile", "lb": "lbs pound", "oz": "ounce",
    "ton": "tonne", "min": "minute", "h": "hr hour", "day": "", "week": "wk", "month": "", "year": "yr",
    "decade": "", "century": "centurie", "gal": "gallon", "cup": "", "quart": "qt", "pint": "pt",
    "tbsp": "tablespoon", "tsp": "teaspoon", "acre": "", "hectare": "ha", "deg": "degree", "rad": "radian",
    "sr": "steradian", "atm": "atmosphere", "bar": "", "dB": "decibel", "dyne": "dyn", "erg": "", "AU": "",
    "ly": "lightyear", "pc": "parsec", "Msun": "", "knot": "", "amu": "u", "gauss": "G", "angstrom": "", "sun": "",
    "lumen": "lm", "dollar": "$ buck usd USD", "cent": "penny pennie", "EUR": "euro", "GBP": "", "JPY": "yen",
    "INR": "rupee rs Rs", "CNY": "yuan RMB", "peso": "", "ruble": "", "dime": "", "nickel": "",
    "%": "percent percentage pct", "permille": "", "C": "celsiu", "Fahrenheit": "fahrenheit", "unit": "",
    "revolution": "rev",
}  # fmt: skip
_PREFIXES = {
    "n": "nano", "u": "micro", "m": "milli", "c": "centi", "d": "deci", "k": "kilo", "M": "mega", "G": "giga",
    "T": "tera",
}  # fmt: skip
_PREFIXED = _words("m g s l Hz N J W V A Pa eV mol cal F bit byte pc T")
CANON = {f"{short}{unit}": f"{short}{unit}" for short in _PREFIXES for unit in _PREFIXED}
CANON |= {
    long + name: f"{short}{unit}"
    for short, long in _PREFIXES.items()
    for unit in _PREFIXED
    for name in NAMES[unit].split() + [unit] * (len(unit) > 1)
}
CANON |= {name: unit for unit, names in NAMES.items() for name in (unit, *names.split())}
CANON |= {"kilo": "kg", "micron": "um", "cc": "ml", "mL": "ml", "kWh": "kWh", "bps": "bps"}
COMPOUND = {
    "mph": {"mi": 1, "h": -1}, "kph": {"km": 1, "h": -1}, "kmh": {"km": 1, "h": -1},
    "rpm": {"revolution": 1, "min": -1},
}  # fmt: skip
SCALES = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
    "dozens": 12,
}  # fmt: skip
FILLERS = _words(
    "of the a an in total only exactly long ago old away each altogether left remaining all red blue green black "
    "white yellow pink purple orange brown gold different distinct possible whole full new small large big extra "
    "additional more per other such integer prime real"
)
ALONE = {"total", "altogether", "remaining", "left", "old", "exactly", "ways"}
THINGS = _words(
    "way people person piece student page book time pencil apple point box marble cookie integer slice egg ticket "
    "fish game card can value child children balloon bottle sticker bag number flower pack pair stamp bird tree chair "
    "candy coin song cat animal dog customer cake picture car cupcake shirt ball step seat digit toy kid leg friend "
    "bead boy word block shelf shelve girl pen fruit seed wheel case pie rose jellybean group combination seashell "
    "question strawberry strawberrie side table passenger problem diagonal banana room glass hotdog item bracelet "
    "photo button potato potatoe order package pizza serving chicken pet house triangle star trip tomato tomatoe "
    "sandwich sandwiche painting necklace row cherry cherrie handshake cow duck doll nail basketball rectangle leaf "
    "leave tile movie round frog plant scoop brownie towel shell plate vote candle peach peache jar notebook lemon "
    "bus buse lollipop donut zero goat stick plum member kind turtle muffin berry berrie goldfish sheet match matche "
    "bouquet lap arrangement lattice solution sequence meal rabbit doughnut floor set envelope shoe player rock goal "
    "horse marshmallow soda poster vase van pile vegetable employee gift brick present ant acorn loaf biscuit man men "
    "woman women cricket bone episode adult lego comic seedling dish dishe sack line carrot outfit feather rider ride "
    "prime possibility term grape sweet chocolate night container token dress meatball daisy daisie log grain carton "
    "onion bill portion basket spot pebble space flavor level pancake ear newspaper spoon video flea sock goose geese "
    "peanut hamburger puppy puppie computer album cube folder team pretzel drink stack lawn hero heroe bedroom cage "
    "element factor letter mango mangoe scarf scarve roll key nut parent decoration gumball insect snail drawing "
    "shark female male truck class classe raccoon packet chapter home machine hit noodle bushel sibling widget batch "
    "batche file bush milkshake drum ribbon pigeon color souvenir treat clove tray circle bee battery batterie snake "
    "deer raisin teacher popsicle bounce divisor polynomial subset edge subcommittee committee root real unit vertex "
    "vertices vertice face pound worker hour job part crayon crate rod tank family familie gate player pea mile stone "
    "ring sheep lion monkey pig kitten hat coat plane train bike bicycle boat ship store shop street road city town "
    "village country planet lamp light bulb phone computer message email minute visitor guest guard soldier farmer "
    "doctor nurse patient actor singer dancer musician artist cook chef waiter driver atom electron photon proton "
    "neutron molecule ion particle"
)
NOT_THINGS = _words(
    "and or maybe not if for when where is are any either no none perhaps with but sin cos tan log ln pi sqrt mod "
    "times then so to both neither nor than least most possibly probably even odd positive negative am pm base since "
    "because which as that from by true false theta factorial squared cubed plus minus less fewer over divided "
    "repeating recurring excluded except half halves third thirds quarter quarters fourths fifths sixths sevenths "
    "eighths ninths tenths infinitely fails modulo inverse reciprocal power root twice double triple thrice"
)

SCALE_NAMES = {"C": "C", "K": "K", "F": "Fahrenheit"}
ORDINAL = {"st", "nd", "rd", "th"}
