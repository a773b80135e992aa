"""Learners on top of features: topics from a few photos, doubts about them, and how well both do."""

from homespun.learning.topic_learner import Prepared, TopicLearner

__all__ = ["Prepared", "TopicLearner"]
