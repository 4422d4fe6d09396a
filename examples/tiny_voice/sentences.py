"""English sentences to learn from, made of templates: any number, the same for the same seed, and none that shares
five words in a row with a sentence on which Vivace calibrates or judges."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np

from vivace.workflows import texts

WORDS = {
    "person": (
        "my older brother|the young teacher|a tired nurse|our neighbour|the captain|Doctor Hughes|her cousin Julia|"
        "the new lawyer|a quiet farmer|Uncle George|the choir|your mother|the judge|a boy from the village|Joyce|"
        "the engineer|Mister Boyd|an old sailor|the committee|both children|Sarah|the thirsty cyclist|Edward|nobody|"
        "the woman next door|a Swiss tourist|the baker's wife|somebody else|the youngest player|Professor Young"
    ),
    "thing": (
        "a yellow jacket|the heavy box|seven oranges|the garden gate|an empty bottle|a measure of flour|the blue boat|"
        "the television|three large stones|a birthday card|some fresh bread|the church bell|a rough sketch|the toy|"
        "an hour of music|the broken chair|their luggage|a huge mirror|the ship's anchor|two thin blankets|a joke|"
        "the whole orchard|a pair of scissors|this awful noise|the treasure|fourteen envelopes|a brown leather purse|"
        "the village square|our loudest drum|an unusual ring|vegetable soup|the theatre|a smooth wooden spoon|the oil"
    ),
    "did": (
        "found|carried|remembered|painted|sold|described|forgot|measured|dropped|borrowed|admired|washed|wanted|"
        "brought|noticed|repaired|photographed|followed|ignored|pushed|counted|chose|held|watched|enjoyed|burned|"
        "threw away|looked after|paid for|asked about|pointed at|laughed about|walked around|thought of|covered"
    ),
    "where": (
        "behind the station|near the river|on the third floor|under an oak tree|across the road|at the harbour|"
        "in a warm kitchen|beside the fire|along the northern coast|inside the cathedral|above the clouds|out of town|"
        "between two hills|at the end of the corridor|by the swimming pool|over the bridge|in the south of France|"
        "outside the courthouse|through the thick fog|on a small island|down the path|against the wall|at school"
    ),
    "when": (
        "yesterday|last Thursday|before breakfast|in the early morning|after the storm|every other week|in July|"
        "twice a year|at half past nine|during the holidays|long ago|this evening|as usual|in eighteen sixty five|"
        "just after midnight|on the first of March|for about an hour|once again|all day long|tomorrow|in autumn"
    ),
    "how": (
        "quietly|with great care|rather slowly|without a word|in a hurry|by mistake|gladly|for no clear reason|"
        "as quickly as possible|with both hands|almost perfectly|very badly|with a short smile|together|alone|"
        "in a strange voice|bravely|for the usual price|with some pleasure|thoughtfully|once or twice"
    ),
    "is": (
        "cheerful|far too expensive|nearly finished|as cold as ice|brighter than before|rough and grey|quite empty|"
        "hard to explain|famous for its cheese|worth a closer look|older than the house|out of order|full of water|"
        "usually locked|more dangerous than useful|only a shadow|made of glass|sharp|beautiful|in good hands|loose"
    ),
    "but": (
        "nobody seemed to care|it rained too hard|the weather changed|we never learned why|I was not surprised|"
        "the others went home|there was little choice|it took several months|that was the easy part|who could know|"
        "the price had doubled|everyone agreed|she could not hear us|they laughed anyway|he would not answer|"
        "the road was closed|the ground shook|you should have seen it|the judges were pleased|our team lost|why not"
    ),
    "word": (
        "ability|absence|academy|accident|achieve|acid|actual|advice|afraid|agency|album|alcohol|alley|amount|ancient|"
        "angle|ankle|anthem|apple|April|arch|argue|army|artist|ashes|athlete|attic|audience|author|awkward|axle|bacon|"
        "badge|balance|banjo|barely|basket|battle|beard|beige|belief|bishop|blossom|boil|bonus|bottom|bounce|breathe|"
        "bridge|broad|bronze|bubble|bucket|bulb|bureau|bush|butcher|cabin|cactus|camera|canal|candle|capture|career|"
        "castle|caution|ceiling|century|chalk|champion|chaos|chapter|chef|chimney|chocolate|chorus|circle|citizen|clerk|"
        "climate|cloth|coach|coffee|collar|column|comfort|compass|copy|coral|couch|cough|courage|crowd|cruise|crystal|"
        "culture|curtain|cushion|daughter|decade|decision|delight|deny|depth|desert|destroy|device|diagram|diamond|"
        "digest|disguise|dolphin|double|doubt|dragon|drawer|dwarf|eagle|earthquake|echo|edge|eighth|elbow|electric|"
        "elephant|eleven|employ|engine|enough|equal|erase|eruption|essay|evolve|exact|example|exhibit|exotic|eyebrow|"
        "fabric|failure|fashion|father|feather|fiction|fierce|fifth|figure|final|fiver|flavour|fleece|flight|flourish|"
        "fluid|folk|foreign|fossil|fountain|fraction|freeze|friction|fudge|funeral|future|gadget|galaxy|garage|gauge|"
        "genius|gentle|gesture|ghost|giant|giggle|glacier|globe|glove|golden|gossip|grudge|guess|guitar|gymnast|habit|"
        "hammer|handsome|hazard|health|hedge|height|helmet|hinge|history|hollow|honest|hoist|horizon|hospital|hotel|"
        "human|humble|hunger|hybrid|icicle|idea|idle|igloo|image|impulse|inch|income|index|infant|inject|inquiry|insult|"
        "invite|iron|ivory|jaguar|January|jealous|jewel|jigsaw|joint|journey|juice|jungle|justice|kangaroo|kettle|"
        "keyhole|kidney|knowledge|label|labour|ladder|language|lather|laugh|laundry|lawn|league|leisure|lemon|length|"
        "leopard|liquid|lizard|lodge|logic|luxury|machine|magic|magnet|manage|marble|margin|marriage|mathematics|mayor|"
        "meadow|measure|mechanic|medal|menace|method|million|miracle|mission|mixture|moisture|monarch|mosquito|motion|"
        "mouth|muscle|museum|mushroom|mystery|napkin|narrow|nation|nature|neither|nephew|nerve|neutral|ninth|noodle|"
        "normal|notion|novel|nuisance|number|oath|obey|object|obvious|ocean|octopus|odd|offer|official|onion|opera|"
        "opinion|option|ordeal|organ|ostrich|ought|ounce|oxygen|oyster|package|palace|panther|parade|parcel|passion|"
        "pasture|patient|pause|peculiar|pencil|penguin|perfume|permanent|phrase|physics|pigeon|pilot|pirate|pleasant|"
        "plough|poison|polite|pollution|portrait|potato|power|precious|pressure|pudding|puzzle|pyramid|quality|quarter|"
        "queen|question|quiver|quote|rabbit|radio|raincoat|ranger|reason|rebel|recipe|refugee|region|regret|rehearse|"
        "release|religion|relish|require|rescue|revenge|rhythm|rifle|ritual|rocket|rouge|royal|rubber|ruin|saddle|salad|"
        "salmon|satellite|sausage|scheme|science|sculpture|season|sequence|severe|shallow|shelter|shield|shoulder|"
        "shrink|sideways|silver|singer|sixth|skeleton|sleeve|slippery|smooth|soldier|sorrow|spaghetti|speech|spiral|"
        "splash|sponge|squirrel|statue|stomach|strength|stretch|sugar|surgeon|swallow|syrup|tablet|talent|target|taxi|"
        "technique|telephone|temple|thaw|themselves|theory|thigh|thimble|thorn|thousand|threat|thumb|thunder|tissue|"
        "tongue|topic|torture|tough|tourist|towel|tragic|treason|triangle|trousers|tulip|turquoise|twelfth|twist|"
        "umbrella|unique|unless|urgent|usher|vacuum|valley|vanish|vapour|vehicle|velvet|venture|version|victim|violin|"
        "vision|vitamin|volume|voyage|vulture|wagon|walnut|weather|weird|whale|wheat|whisper|whistle|width|wilderness|"
        "window|wisdom|wither|wolf|wrestle|wrinkle|yacht|yawn|yellow|yesterday|yoghurt|youth|zebra|zigzag|zone"
    ),
}
TEMPLATES = (
    "{Person} {did} {thing} {where}.",
    "{When}, {person} {did} {thing} {how}.",
    "{Thing} was {is}, but {but}.",
    "{Person} {did} {thing} {when}, and {but}.",
    "Why is {thing} {is}?",
    "{Where}, {person} {how} {did} {thing}; {but}.",
    "{Person} said that {thing} is {is}.",
    "Did you know that {person} {did} {thing} {when}?",
    "{But}, so {person} {did} {thing}.",
    "{How}, {person} and {person} {did} {thing} {where} {when}.",
    "{Thing}, {thing} and {thing} were {where}.",
    "If {thing} is {is}, {person} must have been {where}.",
    "Look at {thing}!",
    "{Person} was {where} {when}.",
    *("{Word}, {word}, {word}, {word}, {word} and {word}.",) * 3,  # words for the variety of their sounds
    *("{Person} {did} the {word} {word} and the {word} {how}.",) * 3,
    *("A {word} {word} is no {word}; the {word} was {is}.",) * 3,
    *("{When} the {word} and the {word} {did} {thing} in {word}.",) * 2,
)
RUN = 5  # words in a row


def make(count: int, seed: int = 0) -> list[str]:
    """`count` different sentences."""
    rng = np.random.default_rng(seed)
    others = (*texts.evaluation(), *texts.calibration(), *texts.latency().values())
    judged = set().union(*(_runs(text) for text in others))
    choices = {kind: words.split("|") for kind, words in WORDS.items()}
    found: dict[str, None] = {}
    while len(found) < count:
        template = str(rng.choice(TEMPLATES))

        def word(slot: re.Match[str]) -> str:
            chosen = str(rng.choice(choices[slot[1].lower()]))
            return chosen[0].upper() + chosen[1:] if slot[1][0].isupper() else chosen

        sentence = re.sub(r"\{(\w+)\}", word, template)
        if not _runs(sentence) & judged and not _twice(sentence):
            found[sentence] = None
    return list(found)


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z']+", text.lower())
    return {tuple(words[k : k + RUN]) for k in range(len(words) - RUN + 1)}


def _twice(text: str) -> bool:
    return any(a == b for a, b in pairwise(re.findall(r"[a-z']+", text.lower())))
