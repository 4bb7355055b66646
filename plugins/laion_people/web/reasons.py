"""What it means that a row was rejected, in a few words for the funnel; what to do stands in docs/operations.md."""

from __future__ import annotations

from laion_people.steps.download import REASONS
from laion_people.tars import UNUSABLE

MEANINGS: dict[str, dict[str, str]] = {  # by the unit of the funnel's stage
    "images": REASONS | UNUSABLE | {"no_people": "nobody was found in the image"},
    "people": {
        "no_face_seen": "a back, a steep profile or a covered face; the row is kept, without a mesh",
        "below_threshold": "the crop does not fit the image's caption: the similarity is not above the threshold",
        "no_background": "the shard has no image without people that is large enough",
        "no_cluster": "in no pose, face or head cluster",
        "crowded": "boxes of others cover more than a tenth of the cut-out",
        "truncated": "head or shoulders are not seen",
        "too_small": "the box is too low to be pasted sharply",
        "unclear": "neither pose, face nor head is seen clearly enough",
        "no_partner": "nobody was found who is certainly alike or certainly different",
        "not_drawn": "enough pictures were made without",
    },
    "captions": {
        "no_pose_cluster": "too little of the body is seen for a pose cluster",
        "no_face_cluster": "too little of the face is seen for an expression",
        "no_head_cluster": "too little of the head is seen for its direction",
        "blocked_word": "the best caption has a word about who the person is",
    },
    "descriptions": {
        "no_caption": "the captioner had nothing to say",
        "below_threshold": "the best description does not fit the crop: the similarity is not above the threshold",
    },
}
