"""Labels beside the score of each finished image: training pictures and previews under captions that are not theirs."""
