"""The one decoder of everything that reads videos: upright, square pixels, right colours, frames by their time."""

from scene4d.video_files.frames import frame_times, read_frames
from scene4d.video_files.info import VideoInfo, video_info
from scene4d.video_files.upright import Orientation
from scene4d.video_files.writing import write_h264

__all__ = ["Orientation", "VideoInfo", "frame_times", "read_frames", "video_info", "write_h264"]
