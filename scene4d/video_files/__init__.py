"""The one decoder of everything that reads videos: upright, square pixels, right colours, frames by their time."""

from scene4d.video_files.frames import frame_times, read_frames
from scene4d.video_files.info import VideoInfo, video_info

__all__ = ["VideoInfo", "frame_times", "read_frames", "video_info"]
