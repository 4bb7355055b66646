"""What is to be said of every publication, in the card and in the Croissant file: where it comes from, what is not true
of it, what it is for. Texts without numbers; those are in the record, and in truth.json."""

from __future__ import annotations

from laion_people.publication.release import Publication

STEPS = {  # what was done, in order, by the step of the software
    "download": "Images were fetched from the addresses of the collection, scaled down (the shorter side to 384 pixels "
    "unless set otherwise) and kept with the sha256 of the file as it came. Rows that the collection flags as "
    "unsafe, and "
    "images whose owner's headers refuse such use, are not fetched unless that is switched off.",
    "detect": "A detector looked for people; each box is a row.",
    "pose": "A pose model estimated 17 joints of each person, and where it can, joints in three dimensions.",
    "mesh": "A face model laid a mesh of 478 points over each face that can be seen.",
    "facts": "Rules of geometry turned poses and meshes into facts such as left_arm=overhead, each with a confidence.",
    "subset_a": "CLIP compared each person's cut-out with the image's alt text; those above a threshold are Subset A.",
    "cluster": "Poses, facial expressions and head positions of a sample of people were clustered; captions of each "
    "cluster were made by a grammar from facts. Every person was assigned to the nearest cluster, if one is near.",
    "compose": "People of whom it is certain that they are alike, or different, in one aspect were cut out and put "
    "side "
    "by side on a background without people: Subset B.",
    "caption": "Of a cluster's captions those that the person's own facts bear out were compared by CLIP; the best "
    "is a "
    "row of Subset C.",
    "describe": "Where it was asked for, a captioning model described each person; the description that CLIP or the "
    "model itself finds best is Subset D.",
}

PERSONAL = (
    "Every image shows people who were not asked. Poses and faces are measured: in some laws, face landmarks and face "
    "pictures are biometric data. Nobody is named here, nobody was recognised, and no model of this data set tells who "
    "somebody is."
)
PERSONAL_OF_LINKS = (
    "But captions from web pages (people, subset_a) may name people, and addresses lead to pictures of them."
)

BIASES = (
    "Images are those that web pages showed with an English (or other) alt text: products, fashion, stock photographs, "
    "sports, celebrities and news are frequent, everyday life, older people and much of the world are rare.",
    "The models were trained on data with biases of their own, and fail more often on people, clothes, poses and light "
    "that were rare there. Error rates by skin colour, gender, age or disability were not measured.",
    "People who are partly hidden, small, seen from behind or in a crowd are found, posed and captioned less often, so "
    "that standing people who face the camera are more frequent here than in the images.",
    "Captions that are made here are English, of one grammar, and say nothing of clothes, age, gender, looks or mood. "
    "Subset D, where there is one, does speak of them, with the prejudices of its model.",
)

LIMITS = (
    "Boxes, poses, meshes, facts and captions were made by models and rules; no person has checked each row.",
    "What a caption does not say is not false: arms, legs, brows and eyes of which nothing is certain are left out.",
    "Similar and different in Subset B mean the distance of estimated poses, meshes and angles.",
    "The same picture under several addresses, and cuts of it, can be there more than once.",
    "There is no split but train: whoever tests on it must keep the pictures of one image, and near-equal ones, "
    "together.",
)
LIMITS_OF_LINKS = (
    "An address may be dead, or show another image by now: compare sha256, or phash, before a box is trusted.",
    "phash finds most of the pictures that are there more than once.",
)

USES = (
    "training and testing models that generate or describe people by pose, facial expression and head position",
    "training and testing of pose, face mesh and person detection, as far as labels made by models serve for it",
    "research on what such data holds: its biases, its duplicates, what it should not have",
)

OUT_OF_SCOPE = (
    "finding out who somebody is, recognising faces, or following people",
    "inferring health, origin, religion, sexual orientation, character or emotions: a facial expression is no feeling",
    "decisions about people: hiring, credit, insurance, policing, border control",
    "making pictures of a person who can be recognised, without her consent",
    "anything that is forbidden where you are: the licence of this data set is none to the images",
)

IMPACT = (
    "Models that make pictures of people by pose and expression can serve art, film, games and aids for disabled "
    "people; "
    "they can also serve deception, and they repeat whom the web shows and how."
)

NO_CONTACT = (
    "Nobody is named who would take people out of this publication: whoever made it has not set a contact. Ask "
    "where you "
    "got it from."
)
NO_LICENCE = "No licence was stated by whoever published it. Ask before you use it."


def steps(publication: Publication) -> dict[str, str]:
    """What was done, in order, as far as the publication has something of it."""
    return {step: text for step, text in STEPS.items() if step != "describe" or "subset_d" in publication.configs()}


def choices(publication: Publication) -> list[str]:
    """Which images were left out, how surely, and which were not."""
    options = publication.options
    return [
        "Images whose caption or flags speak of minors were not left out: children can be in it."
        if options["with_minors"]
        else "Images whose caption or collection flags speak of minors were left out. That goes by words alone, mostly "
        "English ones: nobody's age was estimated, and children whose caption does not say so are still in it.",
        "Images that the collection flags as unsafe were not left out here."
        if options["nsfw"] == "keep"
        else "Images that the collection flags as unsafe were left out. Its flags miss some: nudity and violence "
        "can be in the images.",
        "Images were not left out for what their owners say of such use."
        if options["opt_outs"] == "keep"
        else "Images whose owner refused such use in the headers or robots.txt of the site were left out, as far as "
        "the "
        "answers were kept when the images were downloaded. What owners said elsewhere, or since, is not known.",
    ]


def faces(publication: Publication) -> str:
    """What became of faces in pictures; "" where there are none."""
    if not publication.options["pictures"]:
        return ""
    return {
        "keep": "Faces in the pictures of Subset B are as they were.",
        "blur": "Faces in the pictures of Subset B were blurred where models find one; what they miss is not.",
        "drop": "Pictures of Subset B in which models find a face were left out; what they miss is still there.",
    }[publication.options["faces"]]


def personal(publication: Publication) -> str:
    """What of it is personal."""
    return PERSONAL if publication.edition == "geometry" else f"{PERSONAL} {PERSONAL_OF_LINKS}"


def limits(publication: Publication) -> tuple[str, ...]:
    """What its rows do not tell, or not surely."""
    return LIMITS if publication.edition == "geometry" else LIMITS + LIMITS_OF_LINKS


def edition(publication: Publication) -> str:
    """What of images is in the publication."""
    if publication.edition == "geometry":
        return (
            "It has neither addresses nor pictures: poses, meshes, facts and captions alone, with ids of its own. "
            "It is not "
            "anonymous: who has an edition with addresses too can put the same numbers side by side."
        )
    if publication.options["pictures"]:
        return "Of images it has addresses; its only pictures are those of Subset B, composed of cut-outs of people."
    return "Of images it has addresses and no pixel; the pictures of Subset B were left out."


def caveats(publication: Publication) -> list[str]:
    """All that is known to be wrong with it, or missing."""
    return [*choices(publication), *filter(None, [faces(publication)]), *BIASES, *limits(publication)]
