"""The word gate: captions speak of bodies in space, never of who the people are or what they look like.

Words for clothes, colours, age, gender, body shape, skin, hair, looks, identity and health are blocked. Each is listed
under the reason that a person reads when a caption is refused. Words that pose captions need in another sense (belly,
heel, short, straight, light) are allowed.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

WORDS: dict[str, str] = {
    "gender": """
        man men woman women boy girl male female lady gentleman gentlemen guy gal dude lad lass bloke chap sir
        madam mister mr mrs ms miss he him his himself she her hers herself masculine feminine mother father mom
        mum mommy dad daddy mama papa brother sister son daughter husband wife wives uncle aunt nephew niece
        grandmother grandfather grandma grandpa boyfriend girlfriend bride groom king queen prince princess
        actress waitress businessman businessmen businesswoman businesswomen policeman policemen policewoman
        policewomen fireman firemen sportsman sportsmen sportswoman sportswomen cowboy manly womanly mankind
        manhood womanhood boyish girlish ladylike transgender trans nonbinary androgynous
    """,
    "age": """
        old older oldest elder elderly eldest young younger youngest youngster youth youthful child children
        childish childlike childhood kid baby babyish infant toddler newborn teen teenage teenager adolescent
        adult grownup senior junior aged ageing aging age mature juvenile pensioner retiree schoolboy schoolgirl
        tween preteen
    """,
    "clothes": """
        clothes clothing clothed clad dressed undressed shirt tshirt blouse sweater jumper pullover hoodie
        sweatshirt cardigan vest waistcoat jacket coat raincoat overcoat parka blazer suit tuxedo tracksuit
        swimsuit bikini dress gown robe skirt trouser trousers pants jean jeans shorts leggings tights stocking
        sock shoe boot sneaker sandal slipper hat cap beanie helmet hood scarf scarves shawl glove mitten belt
        tie necktie bowtie uniform costume outfit garment apparel attire underwear bra lingerie pajama pyjama
        apron overalls jumpsuit kimono sari hijab turban veil burqa sunglasses glasses eyeglasses spectacles
        goggles jewelry jewellery necklace bracelet earring wristwatch handbag purse backpack sleeve collar
        denim leather naked nude topless shirtless barefoot wear wearing wore worn
    """,
    "colour": """
        red reddish blue bluish green greenish black white yellow orange purple pink brown grey gray violet
        indigo turquoise teal cyan magenta maroon crimson scarlet beige khaki navy gold golden silver bronze
        lilac lavender olive ivory cream tan coral amber aqua burgundy color colored colorful colour coloured
        colourful
    """,
    "skin": """
        skin skinned complexion pale tanned freckle freckled wrinkle wrinkled scar scarred tattoo tattooed
        birthmark mole pimple acne
    """,
    "hair": """
        hair haired hairy hairstyle haircut blond blonde brunette redhead ginger bald balding beard bearded
        moustache mustache stubble unshaven shaven goatee sideburns ponytail braid braided pigtail curly
        dreadlock afro makeup lipstick mascara
    """,
    "body shape": """
        fat thin slim slender skinny chubby plump overweight underweight obese heavyset stocky muscular muscled
        brawny burly curvy petite tall taller tallest tiny bony busty stout lanky bulky breast bosom cleavage
        buttocks pregnant
    """,
    "identity": """
        asian african european american caucasian hispanic latino latina latinx arab arabic indian chinese
        japanese korean vietnamese thai filipino mexican brazilian british english french german italian spanish
        russian turkish persian iranian iraqi israeli egyptian nigerian ethiopian kenyan polynesian aboriginal
        indigenous native ethnic ethnicity race racial biracial nationality foreigner immigrant refugee oriental
        christian muslim islamic jewish jew hindu buddhist sikh catholic protestant religious gay lesbian
        bisexual queer homosexual heterosexual
    """,
    "occupation": """
        doctor nurse soldier police student teacher worker athlete dancer model celebrity actor singer
        politician president tourist priest nun monk imam rabbi
    """,
    "looks": """
        beautiful pretty handsome attractive ugly gorgeous cute lovely sexy hot charming stunning elegant
        stylish fashionable glamorous
    """,
    "health": "disabled disability handicapped crippled blind deaf sick ill wheelchair autistic",
}


def blocked(caption: str) -> tuple[str, str] | None:
    """The first blocked word of a caption, in small plain letters, and the reason; None if there is none.

    Capitals, accents, invisible characters and compatibility forms of letters make no difference (Unicode NFKD).
    Plurals, possessives and the parts of a hyphenated word count as the word.
    """
    for word in _LETTERS.findall(plain(caption)):
        if reason := _reasons().get(word):
            return word, reason
    return None


_LETTERS = re.compile(r"[^\W\d_]+")


def plain(text: str) -> str:
    """A text in small letters without accents, invisible characters and compatibility forms (Unicode NFKD)."""
    letters = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(c for c in letters if not unicodedata.combining(c) and unicodedata.category(c) != "Cf")


@cache
def _reasons() -> dict[str, str]:
    """Every blocked form with its reason."""
    return {form: reason for reason, words in WORDS.items() for word in words.split() for form in (word, plural(word))}


def plural(noun: str) -> str:
    """The regular plural."""
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2] not in "aeo" else f"{noun}s"
