"""Pictures of meshes and cameras, and lenses. It knows no data set."""
